package netns

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"ferry/test/lab"
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
			if got := socksEcho(t, n.c1, fmt.Sprintf("%s:%d", lanHost, serveEcho(t, n.lan)), 1300); got != 1300 {
				t.Errorf("UDP: %d bytes come back, want 1300", got)
			}
			if _, err := n.c1.Run("curl -sS -m 5 -x socks5h://127.0.0.1:1080 http://" + lanHost + ":9/"); err == nil || !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "(97)") {
				t.Errorf("a closed port: %v", err)
			}
		})
	}
}

// socksEcho sends datagrams of a size to a server by UDP ASSOCIATE of the proxy on port 1080, until one comes back, and returns its length.
func socksEcho(t *testing.T, ns *lab.Namespace, server string, size int) int {
	t.Helper()
	control := dial(t, ns, "127.0.0.1", 1080)
	_ = control.SetDeadline(time.Now().Add(patience))
	_, _ = control.Write([]byte("\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"))
	said := make([]byte, 12)
	if _, err := io.ReadFull(control, said); err != nil || string(said[:6]) != "\x05\x00\x05\x00\x00\x01" {
		t.Fatalf("got %x, %v", said, err)
	}
	var conn net.Conn
	err := ns.Do(func() (err error) {
		conn, err = net.Dial("udp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(binary.BigEndian.Uint16(said[10:])))))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	to := netip.MustParseAddrPort(server)
	addr := to.Addr().As4()
	header := binary.BigEndian.AppendUint16(append([]byte{0, 0, 0, 1}, addr[:]...), to.Port())
	b := make([]byte, 1<<16)
	for range 10 {
		_, _ = conn.Write(append(bytes.Clone(header), make([]byte, size)...))
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(b); err == nil && bytes.HasPrefix(b, header) {
			return n - len(header)
		}
	}
	return -1
}
