package netns

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/carrier/connectip"
	"ferry/internal/carrier/dns"
	"ferry/internal/carrier/icmp"
	"ferry/internal/carrier/quic"
	"ferry/internal/carrier/ssh"
	"ferry/internal/carrier/tcp"
	ferrytls "ferry/internal/carrier/tls"
	"ferry/internal/carrier/udp"
	ferryunix "ferry/internal/carrier/unix"
	"ferry/internal/carrier/ws"
	"ferry/internal/identity"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// Clients that come by each carrier as vpncli does, and then do what no client should:
//
//	rawvpn.Client ── linkConn ── carrier.Link ── the carrier's own Dial ── sockets of a namespace
//
// A carrier is a line of scriptedCarriers.

// credentials are what a client shows in its handshake.
type credentials struct {
	key identity.Key
	pin identity.Pin // of the gateway
	// config is the TLS of both, for all but ssh; it may have been changed.
	config *tls.Config
}

func showing(k identity.Key, p identity.Protocol, gateway identity.Pin) credentials {
	return credentials{k, gateway, k.Client(p, gateway)}
}

// A scriptedCarrier is a way by which devices with keys come.
type scriptedCarrier struct {
	name, listen, server string
	dial                 func(context.Context, carrier.Endpoint, carrier.Opener, credentials) (carrier.Link, error)
	// bytes is what is below the handshake of carriers of bytes; nil: there are datagrams.
	bytes func(context.Context, carrier.Endpoint, carrier.Opener) (net.Conn, error)
}

// scriptedCarriers are all that a namespace can have. path is that of the unix socket.
func scriptedCarriers(path string) []scriptedCarrier {
	datagrams := func(name, listen, server string, dial func(context.Context, carrier.Endpoint, carrier.Opener, *tls.Config) (carrier.Link, error)) scriptedCarrier {
		return scriptedCarrier{name: name, listen: listen, server: server,
			dial: func(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c credentials) (carrier.Link, error) {
				return dial(ctx, e, o, c.config)
			}}
	}
	stream := func(name, listen, server string, dial func(context.Context, carrier.Endpoint, carrier.Opener) (net.Conn, error)) scriptedCarrier {
		return scriptedCarrier{name: name, listen: listen, server: server, bytes: dial, dial: inTLS(dial)}
	}
	return []scriptedCarrier{
		stream("tcp", "tcp://:2002?allow=tls", "tcp://"+gatewayC1, tcp.Dial),
		stream("unix", "unix://"+path+"?allow=tls", "unix://"+path, ferryunix.Dial),
		stream("ws", "ws://:80", "ws://"+gatewayC1, dialWeb),
		stream("wss", "wss://:443", "wss://"+gatewayC1, dialWeb),
		stream("connect-ip+h1", "", "connect-ip+h1://"+gatewayC1, connectip.DialStream), // by the port of wss
		{name: "ssh", listen: "ssh://:2022", server: "ssh://" + gatewayC1, dial: dialSSH},
		datagrams("quic", "quic://:2003", "quic://"+gatewayC1+":2003", quic.Dial),
		datagrams("udp", "udp://:2002", "udp://"+gatewayC1, udp.Dial),
		datagrams("connect-ip", "connect-ip://:443", "connect-ip://"+gatewayC1, connectip.Dial),
		datagrams("icmp", "icmp://", "icmp://"+gatewayC1, icmp.Dial),
		datagrams("dns", "dns://"+tunnelZone, "dns://"+gatewayC1+"/"+tunnelZone, func(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
			return dns.Dial(ctx, e, o, c, nil)
		}),
	}
}

// listens returns the arguments of a gateway for all of them.
func listens(all []scriptedCarrier) (args []string) {
	for _, c := range all {
		if c.listen != "" {
			args = append(args, "--listen", c.listen)
		}
	}
	return args
}

func dialWeb(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	return ws.Dial(ctx, e, o, ws.Options{Proxy: ws.Direct})
}

func dialSSH(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c credentials) (carrier.Link, error) {
	conn, err := ssh.Dial(ctx, e, o, c.key, func(key identity.Public) error {
		if key.Pin() != c.pin {
			return identity.ErrWrongKey
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return carrier.NewStream(conn), nil
}

func inTLS(dial func(context.Context, carrier.Endpoint, carrier.Opener) (net.Conn, error)) func(context.Context, carrier.Endpoint, carrier.Opener, credentials) (carrier.Link, error) {
	return func(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c credentials) (carrier.Link, error) {
		conn, err := dial(ctx, e, o)
		if err != nil {
			return nil, err
		}
		records, err := ferrytls.Client(ctx, conn, c.config)
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		return carrier.NewSecureStream(conn, records), nil
	}
}

// endpoint is where the gateway is.
func (c *scriptedCarrier) endpoint(t testing.TB) carrier.Endpoint {
	t.Helper()
	e, err := carrier.ParseDial(c.server, 2002)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// connect makes a connection and its handshake, with sockets of a namespace.
func (c *scriptedCarrier) connect(ctx context.Context, e carrier.Endpoint, ns *lab.Namespace, shown credentials) (*linkConn, error) {
	l, err := c.dial(ctx, e, socketsOf{ns}, shown)
	if err != nil {
		return nil, err
	}
	return &linkConn{Link: l}, nil
}

// socketsOf opens the sockets of carriers in a namespace, from any thread.
type socketsOf struct{ ns *lab.Namespace }

var _ carrier.Opener = socketsOf{}

// Socket implements carrier.Opener. Those for pings are raw ones.
func (s socketsOf) Socket(network, address string) (f *os.File, err error) {
	kind, ok := map[string][3]int{
		"tcp4":  {unix.AF_INET, unix.SOCK_STREAM, 0},
		"udp4":  {unix.AF_INET, unix.SOCK_DGRAM, 0},
		"icmp4": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
	}[network]
	if !ok {
		return nil, fmt.Errorf("no socket of %s to %s", network, address)
	}
	err = s.ns.Do(func() error {
		fd, err := unix.Socket(kind[0], kind[1]|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, kind[2])
		if err == nil {
			f = os.NewFile(uintptr(fd), network)
		}
		return os.NewSyscallError("socket", err)
	})
	return f, err
}

// Connect implements carrier.Opener: a unix socket is in no network namespace.
func (s socketsOf) Connect(path string) (net.Conn, error) { return net.Dial("unix", path) }

// A linkConn makes a net.Conn of a link, for package rawvpn. Each Write has whole items. A deadline ends the connection:
// a link has none.
type linkConn struct {
	carrier.Link
	unread []byte
	late   atomic.Bool
	mu     sync.Mutex // guards timer
	timer  *time.Timer
}

var _ net.Conn = (*linkConn)(nil)

func (c *linkConn) Read(b []byte) (int, error) {
	for len(c.unread) == 0 {
		buf, start, end, err := c.Fill()
		if err != nil && c.late.Load() {
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			return 0, err
		}
		c.unread = append(c.unread[:0], buf[start:end]...)
		c.Consume(end - start)
	}
	n := copy(b, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

func (c *linkConn) Write(b []byte) (int, error) {
	if err := c.Link.Write(b, nil); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetReadDeadline implements net.Conn.
func (c *linkConn) SetReadDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer = time.AfterFunc(time.Until(at), func() {
		c.late.Store(true)
		_ = c.Link.Close()
	})
	return nil
}

// SetDeadline implements net.Conn.
func (c *linkConn) SetDeadline(at time.Time) error { return c.SetReadDeadline(at) }

// SetWriteDeadline implements net.Conn: the one for reading does for both.
func (c *linkConn) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr implements net.Conn.
func (c *linkConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPort{}) }

// Close implements net.Conn.
func (c *linkConn) Close() error {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	return c.Link.Close()
}

// newManyWays starts a gateway that listens on all carriers, with lines in its file.
func newManyWays(t *testing.T, lines string) (*network, []scriptedCarrier) {
	t.Helper()
	all := scriptedCarriers(filepath.Join(t.TempDir(), "vm.sock"))
	return newSecureFile(t, lines, listens(all)...), all
}

// joinBy lets a device come by a carrier, get an address and a ping.
func (n *network) joinBy(c *scriptedCarrier, shown credentials, a rawvpn.Ask) (*rawvpn.Client, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), rawvpn.DefaultTimeout)
	defer cancel()
	conn, err := c.connect(ctx, c.endpoint(n.t), n.c1, shown)
	if err != nil {
		return nil, err
	}
	r := rawvpn.New(conn)
	if err = r.Join(a); err == nil {
		_, err = r.Ping(gatewayAddr)
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}
