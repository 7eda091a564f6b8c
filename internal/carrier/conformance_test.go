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
		"tcp": func(t testing.TB) (a, b net.Conn) { return carrier.SocketPair(t, "tcp", "127.0.0.1:0") },
		"unix": func(t testing.TB) (a, b net.Conn) {
			return carrier.SocketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
		},
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
