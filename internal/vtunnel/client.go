package vtunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"ferry/internal/carrier"
)

// ClientConfig is what a Client can be told. The zero value of a field means its default, which is what it says in the comment.
type ClientConfig struct {
	Dial  func(context.Context) (net.Conn, error) // connects to the server
	Auth  string                                  // DefaultAuth; 31 bytes of it count
	Addr  string                                  // of the destination, which the server judges: 127.0.0.1
	Port  uint16                                  // of the destination
	Max   int                                     // tunnels, or flows of UDP, at once: 1024
	Log   *slog.Logger                            // nothing
	Lines *Lines                                  // nothing

	ReplyTimeout time.Duration                   // for the server, which has 10 s for the destination: 20 s
	HalfOpen     time.Duration                   // see the rules: 5 min
	Idle         func(port uint16) time.Duration // after which a flow of UDP ends: 2 min, of port 53 10 s
}

// A Client takes connections and datagrams of applications to one destination.
type Client struct {
	c    ClientConfig
	room chan struct{} // has an element for each tunnel
}

// NewClient returns a Client.
func NewClient(c ClientConfig) *Client {
	c.Auth = cut(c.Auth)
	c.Addr = cmp.Or(c.Addr, "127.0.0.1")
	c.Max = cmp.Or(c.Max, 1024)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.ReplyTimeout, c.HalfOpen = cmp.Or(c.ReplyTimeout, 20*time.Second), cmp.Or(c.HalfOpen, halfOpen)
	if c.Idle == nil {
		c.Idle = defaultIdle
	}
	return &Client{c: c, room: make(chan struct{}, c.Max)}
}

func defaultIdle(port uint16) time.Duration {
	if port == 53 {
		return 10 * time.Second
	}
	return 2 * time.Minute
}

// Bind calls listen for an address with port, or with the next one that is free, as the original does.
func Bind[L any](addr netip.Addr, port uint16, listen func(netip.AddrPort) (L, error)) (L, error) {
	for p := int(port); ; p++ {
		l, err := listen(netip.AddrPortFrom(addr, uint16(p)))
		switch {
		case err == nil:
			return l, nil
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return l, fmt.Errorf("this machine has no address %s ('ip addr' shows what it has): %w", addr, err)
		case !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES):
			return l, err
		case p == 0xffff:
			return l, fmt.Errorf("no port from %d on is free: choose a lower one: %w", port, err)
		}
	}
}

// ListenTCP listens on port, or the next one that is free.
func ListenTCP(addr netip.Addr, port uint16) (*net.TCPListener, error) {
	return Bind(addr, port, func(a netip.AddrPort) (*net.TCPListener, error) {
		return net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(a))
	})
}

// ListenUDP is ListenTCP for UDP.
func ListenUDP(addr netip.Addr, port uint16) (*net.UDPConn, error) {
	return Bind(addr, port, func(a netip.AddrPort) (*net.UDPConn, error) {
		return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(a))
	})
}

// ServeTCP serves who comes by a listener until ctx is done, and closes it. It waits for all tunnels.
func (c *Client) ServeTCP(ctx context.Context, l *net.TCPListener) error {
	return serve(ctx, l, c.c.Log, func(conn net.Conn) {
		c.c.Lines.Say("received connection on %s tcp", l.Addr())
		select {
		case c.room <- struct{}{}:
			defer func() { <-c.room }()
		default:
			c.c.Log.Warn("connection refused", "from", conn.RemoteAddr().String(), "err", fmt.Errorf("%d tunnels are there already", c.c.Max))
			carrier.Reset(conn)
			return
		}
		c.handle(ctx, conn.(*net.TCPConn))
	})
}

// handle is the life of a connection. Who can not be connected is reset: an end of file would look like an answer.
func (c *Client) handle(ctx context.Context, conn *net.TCPConn) {
	server, err := c.connect(ctx, "tcp")
	if err != nil {
		c.failed(err)
		carrier.Reset(conn)
		return
	}
	r := relay{a: conn, b: server, silent: c.c.HalfOpen, lines: c.c.Lines}
	r.run(ctx)
	c.c.Lines.Say("finished processing tunnel, thread exiting")
}

// failed says why there is no tunnel, in the words of the original.
func (c *Client) failed(err error) {
	c.c.Log.Warn("no tunnel", "err", err)
	var refused *refusedError
	var unknown *replyError
	switch {
	case errors.As(err, &refused):
		c.c.Lines.Say("remote %s", refused.why())
	case errors.As(err, &unknown):
		c.c.Lines.Say("invalid notification size %d", len(unknown.got))
	default:
		c.c.Lines.Say("could not connect to vsock server")
	}
	c.c.Lines.Say("could not setup tunnel")
}

// A refusedError is what a server says instead of ready.
type refusedError struct{ reply reply }

// why is what the original calls it.
func (e *refusedError) why() string {
	switch e.reply {
	case notReached:
		return "connect failed"
	case badRequest:
		return "destination line failed to parse"
	}
	return string(e.reply) + " failed"
}

func (e *refusedError) Error() string {
	switch e.reply {
	case notReached:
		return "the server can not connect to the destination: does something listen there, as the server sees it?"
	case badAddress:
		return "the server does not accept the destination: an IPv4 address among those of its -A, or accept=, is expected"
	case badAuth:
		return "the server has another auth string: -a"
	}
	return "the server does not understand the request: an auth string has no spaces"
}

// connect makes a tunnel.
func (c *Client) connect(ctx context.Context, proto string) (stream, error) {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.c.Dial(dialing)
	if err != nil {
		return nil, err
	}
	server, ok := conn.(stream)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is no stream", conn.RemoteAddr())
	}
	if err := c.ask(ctx, server, proto); err != nil {
		_ = server.Close()
		return nil, err
	}
	return server, nil
}

// ask sends the request, and waits for the reply.
func (c *Client) ask(ctx context.Context, server net.Conn, proto string) error {
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_ = server.SetDeadline(time.Now().Add(c.c.ReplyTimeout))
	line := appendRequest(nil, request{auth: c.c.Auth, addr: c.c.Addr, port: int32(c.c.Port), proto: proto})
	if _, err := server.Write(line); err != nil {
		return err
	}
	got, err := readReply(io.Reader(server))
	switch {
	case err != nil:
		return err
	case got != ready:
		return &refusedError{got}
	}
	return server.SetDeadline(time.Time{})
}
