package udp

import (
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

func TestLink(t *testing.T) {
	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) { return pair(t, "127.0.0.1") })
}
