package carrier_test

import (
	"net"
	"path/filepath"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

func TestLink(t *testing.T) {
	for name, pair := range map[string]func(t testing.TB) (a, b net.Conn){
		"tcp":  func(t testing.TB) (a, b net.Conn) { return sockets(t, "tcp", "127.0.0.1:0") },
		"unix": func(t testing.TB) (a, b net.Conn) { return sockets(t, "unix", filepath.Join(t.TempDir(), "s")) },
		"pipe": func(testing.TB) (a, b net.Conn) { return net.Pipe() },
	} {
		t.Run(name, func(t *testing.T) {
			carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
				a, b := pair(t)
				return carrier.NewStream(a), carrier.NewStream(b)
			})
		})
	}
}

// sockets returns two connected ones.
func sockets(t testing.TB, network, address string) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}
