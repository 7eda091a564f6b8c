package carrier_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"ferry/internal/carrier"
)

// A name of which it is known where it is needs no name server.
func TestKnownAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here := netip.MustParseAddr("127.0.0.1")
	e := carrier.Endpoint{Scheme: "tcp", Host: "gateway.invalid", Port: uint32(l.Addr().(*net.TCPAddr).Port), At: here}
	conn, err := carrier.DialTCP(t.Context(), e, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if got, err := carrier.Lookup(t.Context(), "ip", e, nil); err != nil || !slices.Equal(got, []netip.Addr{here}) {
		t.Errorf("got %v, %v", got, err)
	}
	if parsed, err := carrier.ParseDial(e.String(), 0); err != nil || parsed.Host != e.Host || parsed.At.IsValid() {
		t.Errorf("%s: got %+v, %v", e, parsed, err)
	}
}
