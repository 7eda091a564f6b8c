package connectip

import (
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/proto"
)

// The longest packet of the MTU that a gateway has by default goes in one datagram, not in two halves.
func TestDefaultMTU(t *testing.T) {
	const found = 1394 // the least that the library finds, where the path carries 1500 bytes
	head := appendVarint(appendVarint(nil, 0), contextFerry)
	n := len(head) + 1 + datagram.Overhead + proto.NumberLen + carrier.MTU("connect-ip")
	if n > found || n < found-1 {
		t.Errorf("%d bytes, want %d at most, and no less than that by two", n, found)
	}
}
