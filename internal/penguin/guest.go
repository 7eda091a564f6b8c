package penguin

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"ferry/internal/carrier"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
	"ferry/internal/penguin/wire"
)

// GuestConfig is what a Guest can be told. The zero value of a field means its default, which is what it says in the comment.
type GuestConfig struct {
	CID    uint32        // context ID of this machine
	Port   uint32        // of requests, the next two being for raw packets and frames: DefaultPort
	Socket string        // path of unix sockets in the place of vsock, as hypervisors have them: Socket_Port; empty: vsock
	Owned  []OwnedConfig // interfaces
	Log    *slog.Logger  // nothing

	Max      int           // connections at once: 1024
	RestTime time.Duration // see the rules: 250 ms
}

// A Guest connects hosts to the services of this machine. Whoever can connect to it may ask for all that this machine can reach.
type Guest struct {
	c        GuestConfig
	room     chan struct{} // has an element for each connection
	complain *rate.Limiter // of lines in the log about hosts
	owned    map[string]*owned
	count    guestCounters

	mu    sync.Mutex // guards what follows
	flows map[*guestFlow]struct{}
}

// RunGuest serves until ctx is done. ready is called when it listens.
func RunGuest(ctx context.Context, c GuestConfig, ready func()) error {
	c.Port = cmp.Or(c.Port, DefaultPort)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Max, c.RestTime = cmp.Or(c.Max, 1024), cmp.Or(c.RestTime, restTime)
	g := &Guest{c: c, room: make(chan struct{}, c.Max), complain: rate.NewLimiter(10, 10), owned: map[string]*owned{}, flows: map[*guestFlow]struct{}{}}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer g.tell()
	defer work.Wait()
	defer cancel()
	listeners := make([]net.Listener, 3)
	for i := range listeners {
		var err error
		if listeners[i], err = c.listen(ctx, wire.Kind(i)); err != nil {
			for _, l := range listeners[:i] {
				_ = l.Close()
			}
			return err
		}
	}
	for _, o := range c.Owned {
		g.own(ctx, &work, o)
	}
	faults := make(chan error, len(listeners))
	for i, l := range listeners {
		work.Go(func() { faults <- g.serve(ctx, l, wire.Kind(i)) })
	}
	ready()
	err := <-faults
	cancel()
	return err
}

// listen listens for requests of a kind.
func (c *GuestConfig) listen(ctx context.Context, k wire.Kind) (net.Listener, error) {
	port := c.Port + uint32(k)
	if c.Socket != "" {
		return unix.Listen(ctx, carrier.Endpoint{Scheme: "unix", Path: fmt.Sprintf("%s_%d", c.Socket, port)})
	}
	return vsock.Listen(ctx, carrier.Endpoint{Scheme: "vsock", CID: c.CID, Port: port})
}

// serve serves who comes by a listener until ctx is done, and closes it. It waits for all connections.
func (g *Guest) serve(ctx context.Context, l net.Listener, k wire.Kind) error {
	var all sync.WaitGroup
	defer all.Wait()
	return carrier.Accept(ctx, l, g.c.Log, func(conn net.Conn) {
		select {
		case g.room <- struct{}{}:
		default:
			g.refuse(conn, reasonFull, fmt.Errorf("%d connections are there already", g.c.Max))
			return
		}
		all.Go(func() {
			defer func() { <-g.room }()
			g.enter(ctx, conn.(stream), k)
		})
	})
}

// refuse resets a connection, counts it, and says why.
func (g *Guest) refuse(conn net.Conn, why reason, err error) {
	g.count[why].Add(1)
	carrier.Reset(conn)
	if g.complain.Allow() {
		g.c.Log.Warn("refused", "reason", why.String(), "err", err)
	}
}

// enter is the life of a connection.
func (g *Guest) enter(ctx context.Context, conn stream, k wire.Kind) {
	stop := context.AfterFunc(ctx, func() { carrier.Reset(conn) })
	defer stop()
	defer conn.Close()
	r, err := readRequest(conn)
	switch {
	case err != nil:
		g.refuse(conn, reasonRequest, err)
		return
	case r.Kind != k:
		g.refuse(conn, reasonRequest, fmt.Errorf("requests of kind %d are for port %d", r.Kind, g.c.Port+uint32(r.Kind)))
		return
	}
	switch {
	case k == wire.RawL3:
		g.rawL3(ctx, conn, r)
	case k == wire.RawL2:
		g.rawL2(ctx, conn, r)
	case r.Routed:
		g.routed(ctx, conn, r)
	case r.Transport == wire.UDP:
		g.datagrams(ctx, conn, r)
	default:
		g.stream(ctx, conn, r)
	}
}

// readRequest reads a request, and nothing behind it.
func readRequest(conn net.Conn) (r wire.Request, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTime))
	var head [wire.LengthSize]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return r, fmt.Errorf("no request: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > wire.MaxRequest {
		return r, fmt.Errorf("%w: it has %d bytes", wire.ErrRequest, n)
	}
	var body [wire.MaxRequest]byte
	if _, err := io.ReadFull(conn, body[:n]); err != nil {
		return r, fmt.Errorf("no whole request: %w", err)
	}
	r, err = wire.ParseRequest(body[:n])
	return r, errors.Join(err, conn.SetReadDeadline(time.Time{}))
}

// destination returns where a request leads to: what stands for all addresses is this machine. The source is not valid if it is any.
func destination(r wire.Request) (dst, src netip.AddrPort) {
	addr := r.Dst.Addr().Unmap()
	switch addr {
	case netip.IPv4Unspecified():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		addr = netip.IPv6Loopback()
	}
	from := r.Src.Addr().Unmap()
	if !from.IsValid() || from.IsUnspecified() && r.Src.Port() == 0 {
		return netip.AddrPortFrom(addr, r.Dst.Port()), netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, r.Dst.Port()), netip.AddrPortFrom(from, r.Src.Port())
}

// dial connects to a service.
func (g *Guest) dial(ctx context.Context, r wire.Request) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	dst, src := destination(r)
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Minute}}
	d.SetMultipathTCP(false)
	switch {
	case !src.IsValid():
	case r.Transport == wire.UDP:
		d.LocalAddr = net.UDPAddrFromAddrPort(src)
	default:
		d.LocalAddr = net.TCPAddrFromAddrPort(src)
	}
	conn, err := d.DialContext(ctx, r.Transport.String(), dst.String())
	if err == nil {
		g.count[connected].Add(1)
	}
	return conn, err
}

// stream serves a Forward of TCP.
func (g *Guest) stream(ctx context.Context, conn stream, r wire.Request) {
	far, err := g.dial(ctx, r)
	if err != nil {
		g.refuse(conn, reasonDial, err)
		return
	}
	p := pipe{host: conn, service: far.(*net.TCPConn), rest: g.c.RestTime}
	p.run(ctx)
}

// tell logs the counts.
func (g *Guest) tell() {
	args := []any{"connected", g.count[connected].Load()}
	for why := connected + 1; why < reasons; why++ {
		args = append(args, why.String(), g.count[why].Load())
	}
	g.c.Log.Info("guest ends", args...)
}
