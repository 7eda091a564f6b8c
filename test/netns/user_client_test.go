package netns

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// newUserClient starts vpncli without rights, with proxies on the ports 1080 and 3128 of its namespace.
func (n *network) newUserClient(t *testing.T) *device {
	t.Helper()
	state, err := os.MkdirTemp("", "ferry-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	if err := os.Chown(state, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	d := &device{start(t, n.c1, append(strings.Fields(nobody), filepath.Join(bin, "vpncli"), "--config=", "--user", "--json", "-s", gatewayC1, "--state", state,
		"--socks5", "127.0.0.1:1080", "--http-proxy", "127.0.0.1:3128")...), t, n.c1}
	d.waitConnected()
	return d
}

// TestUserClient is a device without root and without an interface, at gateways of both kinds.
//
//	c1: program --SOCKS5, HTTP--> vpncli, user nobody --- tcp --- vpnsrv --- lan
func TestUserClient(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct {
		name    string
		network func(*testing.T) *network
	}{
		{"kernel", func(t *testing.T) *network { return newGateway(t, "--nat", "--push-route", "198.51.100.0/24") }},
		{"user", func(t *testing.T) *network { return newUserGateway(t) }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if os.Getuid() != 0 || !mapsEverybody() {
				t.Skip("a user namespace has no other user to become")
			}
			n := kind.network(t)
			n.settle()
			before := hostState(t, n.c1)
			n.newUserClient(t)
			equalState(t, n.c1, before)

			data := make([]byte, 3<<20+1)
			random := rand.NewChaCha8([32]byte{1})
			_, _ = random.Read(data)
			want := sha256.Sum256(data)
			port := listenSum(t, n.lan)
			var conn net.Conn
			if err := n.c1.Do(func() error {
				d, err := proxy.SOCKS5("tcp", "127.0.0.1:1080", nil, proxy.Direct)
				if err == nil {
					conn, err = d.Dial("tcp", net.JoinHostPort(lanHost, strconv.Itoa(port)))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Write(data); err != nil {
				t.Fatal(err)
			}
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want[:]) {
				t.Errorf("got sum %x, %v, want %x", got, err, want)
			}
			if _, err := n.c1.Run("curl -sS -m 5 -x socks5h://127.0.0.1:1080 http://" + lanHost + ":9/"); err == nil || !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "(97)") {
				t.Errorf("a closed port: %v", err)
			}
		})
	}
}
