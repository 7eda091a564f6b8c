package client

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ferry/internal/buffer"
	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	ferrytls "ferry/internal/carrier/tls"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
	"ferry/internal/keepalive"
	"ferry/internal/multipath"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/session"
)

// lingerTime is how long a goodbye may take.
const lingerTime = time.Second

// noAddr is the source of ICMP errors here: none, for a client sends none.
var noAddr netip.Addr

// Why a connection ended.
var (
	errRefused   = errors.New("address refused: it is in use, or not of the gateway's pool: choose another with -a, or leave -a out")
	errNoAnswer  = errors.New("the gateway closed the connection without an answer: it may let in only devices that have joined (vpncli join)")
	errSilent    = errors.New("the gateway is silent")
	errInterface = errors.New("interface can not be set up")
	errPolicy    = errors.New("refused what the gateway pushes")
	errKey       = errors.New("the gateway does not take this device's key: it was removed or disabled there, or has not been added yet ('vpncli key' prints it)")
)

// A byeError is a goodbye frame of the gateway.
type byeError struct{ proto.GoodbyeMessage }

func (e *byeError) Error() string {
	s := "the gateway says: " + e.Reason.String()
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Reason == proto.ReasonInUse || e.Reason == proto.ReasonRefused {
		s += ": choose another with -a, or leave -a out"
	}
	return s
}

// A connection is one way to the gateway, from dialling to its end. Fields without a remark belong
// to the goroutine that reads.
type connection struct {
	client  *client
	stream  carrier.Link
	queue   *router.Queue
	port    *router.Port
	forward *router.Forwarder
	framer  proto.Framer
	session *session.Client
	reader  *multipath.Reader  // with a tunnel
	path    *multipath.Path    // with a tunnel
	joined  chan session.Lease // capacity 1; sent to once by the reading goroutine: the lease is complete

	start   time.Time
	up      bool        // the lease is on the interface
	goodbye atomic.Bool // up, and the gateway understands goodbye frames
	endOnce sync.Once
	cause   error         // set before ended is closed
	ended   chan struct{} // closed by end
}

// connect dials, gets a lease and carries packets. It returns why that has ended.
func (c *client) connect(ctx context.Context, server carrier.Endpoint) error {
	c.event(Event{Kind: EventConnecting, Server: server.String()})
	s, err := c.reach(ctx, server)
	if err != nil {
		return err
	}
	if tcp, ok := s.RemoteAddr().(*net.TCPAddr); ok {
		c.found[server] = first(tcp.AddrPort().Addr().Unmap(), c.found[server])
	}
	x := newConnection(c, s)
	stop := context.AfterFunc(ctx, func() { x.end(ctx.Err()) })
	defer stop()

	var others sync.WaitGroup
	others.Go(func() {
		if err := x.queue.Run(); err != nil {
			x.end(err)
		}
		_ = x.stream.Close()
	})
	others.Go(x.keepAlive)
	x.ask()
	x.end(x.read())
	x.leave()
	others.Wait()
	x.stream.Release()
	if x.up && ctx.Err() == nil {
		c.event(Event{Kind: EventLost, Reason: x.cause.Error()})
	}
	return x.cause
}

// leave takes the connection out of use.
func (x *connection) leave() {
	c := x.client
	if c.tunnel == nil {
		c.uplink.Connect(nil)
		return
	}
	c.tunnel.send.Lost(x.path)
	var bye *byeError
	if errors.As(x.cause, &bye) && ends(bye.Reason) {
		c.forget()
	}
}

// reach dials a server, and makes sure that it is the gateway if it is known by what to tell.
func (c *client) reach(ctx context.Context, server carrier.Endpoint) (carrier.Link, error) {
	conn, err := c.seek(ctx, server)
	if err != nil {
		return nil, err
	}
	if c.tls == nil {
		return carrier.NewStream(conn), nil
	}
	return shakeHands(ctx, conn, c.tls)
}

// seek dials a server. While everything goes into a tunnel that is dead, or the gateway's own name servers are in
// place, nobody may be able to tell where it is: then it is sought where it was first, and if it has moved, the name
// servers from before are asked.
func (c *client) seek(ctx context.Context, server carrier.Endpoint) (net.Conn, error) {
	if err := c.shut(ctx, server); err != nil {
		return nil, err
	}
	c.renew()
	if c.state.Full() || len(c.state.DNS) > 0 {
		for _, a := range c.found[server] {
			there := server
			there.Host = a.String()
			if conn, err := c.dial(ctx, there); err == nil || ctx.Err() != nil || there.Host == server.Host {
				return conn, err
			}
		}
	}
	if len(c.state.DNS) > 0 && len(c.found[server]) > 0 {
		c.state.DNS, c.state.Domains = nil, nil
		c.renew()
	}
	return c.dial(ctx, server)
}

// shut closes the way out beside a full tunnel, before there is one, as soon as it is known where the gateway is: a
// name server of this host may be out of reach then.
func (c *client) shut(ctx context.Context, server carrier.Endpoint) error {
	if !c.c.Policy.DefaultRoute || c.applied {
		return nil
	}
	for _, s := range c.servers {
		if _, err := netip.ParseAddr(s.Host); s.Scheme != "tcp" || err == nil || c.host == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		addrs, err := tcp.Lookup(ctx, s, c.host)
		cancel()
		if err != nil && s == server {
			return err
		}
		c.found[s] = addrs
	}
	return c.apply(hostnet.State{
		Routes: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, LocalNets: !c.c.CloseLAN,
		Outer: hostnet.Outer{Mark: c.c.Mark, Table: c.c.Table},
	})
}

// first returns a and those of others that are not a.
func first(a netip.Addr, others []netip.Addr) []netip.Addr {
	return append([]netip.Addr{a}, slices.DeleteFunc(slices.Clone(others), func(o netip.Addr) bool { return o.Unmap() == a })...)
}

// renew makes the host's network as it was applied last: what others have done to it, as 'nft flush ruleset', may
// keep the gateway out of reach.
func (c *client) renew() {
	if !c.applied {
		return
	}
	if err := c.exit.Apply(c.state); err != nil {
		c.log.Warn("the host's network can not be renewed", "interface", c.exit.Name(), "err", err)
	}
}

// shakeHands speaks TLS on a connection; when that fails the connection is closed.
func shakeHands(ctx context.Context, conn net.Conn, t *tls.Config) (carrier.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	records, err := ferrytls.Client(ctx, conn, t)
	if err != nil {
		_ = conn.Close()
		return nil, notGateway(err)
	}
	return carrier.NewSecureStream(conn, records), nil
}

// notGateway says what a handshake that failed means to the owner of the device.
func notGateway(err error) error {
	switch {
	case errors.As(err, new(tls.RecordHeaderError)), errors.Is(err, io.EOF):
		return fmt.Errorf("this is not the gateway that is known to this device: no TLS is spoken there: %w", err)
	case errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the gateway refuses connections of this device's address for now: there were too many, or too many failed: %w", err)
	case errors.Is(err, identity.ErrWrongKey):
		return fmt.Errorf("this is not the gateway that is known to this device: if its key was replaced while this device was away, join again with a new invitation: %w", err)
	}
	return err
}

// want is what to ask a gateway for.
func (c *client) want() session.Want {
	want := session.Want{Static: c.c.Address, Name: c.c.Name, Last: c.last, Features: proto.FeatureSuper |
		proto.FeatureConfig | proto.FeaturePing | proto.FeatureGoodbye}
	if c.exit.Port().Caps().USO {
		want.Features |= proto.FeatureUSO
	}
	if c.tls != nil {
		want.Features |= proto.FeatureSession
	}
	return want
}

func newConnection(c *client, s carrier.Link) *connection {
	x := &connection{
		client: c, stream: s, start: time.Now(),
		queue:   router.NewQueue(s, router.QueueConfig{Limit: c.c.QueueBytes, Budget: new(buffer.Budget)}),
		session: session.NewClient(c.want()),
		// A gateway that refuses says so before anything was agreed upon.
		framer: proto.Framer{FromServer: true, Extended: true},
		joined: make(chan session.Lease, 1),
		ended:  make(chan struct{}),
	}
	x.port = router.NewPort(1, router.Caps{}, x.queue)
	x.forward = router.NewForwarder(c.uplink, x.port, &c.total, noAddr)
	return x
}

func (x *connection) read() error {
	for {
		buf, start, end, err := x.stream.Fill()
		if err != nil {
			return x.explain(err)
		}
		i := start
		for i < end {
			kind, n, err := x.framer.Next(buf[i:end])
			if err != nil {
				return fmt.Errorf("from the gateway: %w", err)
			}
			if n == 0 {
				break
			}
			if err := x.item(kind, buf, i, i+n); err != nil {
				return err
			}
			i += n
		}
		x.forward.Flush()
		if x.reader != nil {
			x.reader.Flush()
		}
		x.stream.Consume(i - start)
	}
}

// alertBadCertificate is what crypto/tls sends when the other end's key is refused (RFC 8446, section 6).
const alertBadCertificate = 42

// explain tells the refusal of a 2013 server, which is no bytes at all, from a lost connection.
func (x *connection) explain(err error) error {
	switch {
	case errors.Is(err, tls.AlertError(alertBadCertificate)):
		return errKey
	case x.stream.Received() > 0:
		if err == io.EOF {
			return errors.New("the gateway closed the connection")
		}
		return err
	case err == io.EOF && x.client.c.Address.IsValid():
		return errRefused
	case err == io.EOF:
		return errNoAnswer
	}
	return err
}

// item treats the item buf[i:j]. Errors end the connection.
func (x *connection) item(kind proto.Kind, buf []byte, i, j int) error {
	switch kind {
	case proto.KindData:
		if x.fresh(j - i) {
			x.forward.Frame(buf, i, j)
		}
		return nil
	case proto.KindIPv4:
		if x.fresh(j - i) {
			x.forward.Packet(buf, i, j)
		}
		return nil
	case proto.KindIPv6:
		x.forward.Drop(router.DropIPv6)
		return nil
	}
	x.forward.Flush()
	b := buf[i:j]
	switch kind {
	case proto.KindReply:
		return x.progress(x.session.Reply(b))
	case proto.KindConfig:
		done, err := x.session.Config(b)
		if err == nil && x.up { // it says something new of the gateway's keys
			x.client.learn(x.session.Lease())
		}
		return x.progress(done, err)
	case proto.KindPing:
		x.queue.SendControl(proto.AppendPong(nil, b))
	case proto.KindPong:
		x.pong(proto.Payload(b))
	case proto.KindGoodbye:
		g, err := proto.ParseGoodbye(b)
		if err != nil {
			return err
		}
		return &byeError{g}
	case proto.KindAttached:
		return x.attached(b)
	}
	if x.reader == nil {
		return nil // the echo of a keepalive, or a frame of a later version
	}
	return x.pathItem(kind, b)
}

// fresh tells whether the data frame that has come is one to forward.
func (x *connection) fresh(size int) bool { return x.reader == nil || x.reader.Take(size) }

// progress brings the interface up as soon as the lease is complete.
func (x *connection) progress(done bool, err error) error {
	if err != nil || !done || x.up {
		return err
	}
	c, l := x.client, x.session.Lease()
	x.framer.Extended = l.Extended
	x.queue.OnePerWrite(!l.Extended)
	x.port.SetCaps(router.Caps{Super: l.Features.Has(proto.FeatureSuper), USO: l.Features.Has(proto.FeatureUSO)})
	if err := c.configure(&l, x.stream.RemoteAddr()); err != nil {
		return err
	}
	c.learn(l)
	if l.Session != (proto.SessionID{}) {
		c.forget() // the gateway has another one now
		c.tunnel = c.newTunnel(x, l)
	}
	x.isUp(l, l.Extended)
	return nil
}

// isUp begins to send into the connection, and says so.
func (x *connection) isUp(l session.Lease, extended bool) {
	c := x.client
	x.up = true
	x.goodbye.Store(l.Features.Has(proto.FeatureGoodbye))
	changed := c.last.Prefix != l.Prefix
	c.last = l
	c.uplink.Connect(x.port)
	x.joined <- l

	protocol := "ferry"
	if !extended {
		protocol = "2013"
	}
	c.log.Info("connected", "server", x.stream.RemoteAddr().String(), "addr", l.Prefix, "gateway", l.Gateway,
		"interface", c.exit.Name(), "mtu", l.MTU, "protocol", protocol, "secure", c.tls != nil)
	e := Event{
		Kind: EventConnected, Server: x.stream.RemoteAddr().String(), Interface: c.exit.Name(),
		Address: l.Prefix.Addr(), Prefix: l.Prefix.Masked(), Gateway: l.Gateway, MTU: l.MTU, Protocol: protocol,
		Secure: c.tls != nil,
	}
	c.event(e)
	if changed {
		e.Kind = EventAddress
		c.event(e)
	}
}

// keepAlive probes the gateway when it is due, and ends the connection when there is no answer.
func (x *connection) keepAlive() {
	var lease session.Lease
	join := time.NewTimer(joinTimeout)
	defer join.Stop()
	select {
	case <-x.ended:
		return
	case <-join.C:
		x.end(fmt.Errorf("%w: no address within %s", errSilent, joinTimeout))
		return
	case lease = <-x.joined:
	}
	prober := keepalive.Prober{
		Interval: x.client.c.Keepalive, Answer: keepalive.DefaultAnswer,
		Echo: lease.Features.Has(proto.FeaturePing),
	}
	if lease.Idle > 0 {
		prober.Interval = min(prober.Interval, lease.Idle/3)
	}
	var mark uint64 // where the last probe ends in what is sent
	queued := true  // the last probe is there; else there was no room for it
	for {
		prober.Behind = x.stream.Sent() < mark
		if !queued && !prober.Behind {
			prober.Forget()
		}
		action, next := prober.Next(time.Now(), x.stream.LastSent(), x.stream.LastReceived())
		switch action {
		case keepalive.Dead:
			x.end(fmt.Errorf("%w: no answer for %s", errSilent, keepalive.DefaultAnswer))
			return
		case keepalive.Send:
			queued = x.probe(prober.Echo)
			mark = x.stream.Sent() + uint64(x.queue.Queued())
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-x.ended:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// probe sends a ping to a Ferry gateway and a keepalive to a 2013 server. It returns false when the queue
// is full: then it is due again once that has gone out.
func (x *connection) probe(ping bool) bool {
	b := proto.AppendKeepalive(nil)
	if ping {
		b = proto.AppendPing(nil, binary.BigEndian.AppendUint64(nil, uint64(time.Since(x.start))))
	}
	dropped, _ := x.queue.Send(b)
	return dropped == 0
}

func (x *connection) pong(payload []byte) {
	if len(payload) != 8 {
		return
	}
	sent := time.Duration(binary.BigEndian.Uint64(payload))
	rtt := time.Since(x.start) - sent
	x.client.log.Debug("gateway answers", "rtt", rtt)
	x.client.story.setRTT(rtt)
}

// end closes the connection. The first call counts; it may come from any goroutine.
func (x *connection) end(cause error) {
	x.endOnce.Do(func() {
		x.cause = cause
		close(x.ended)
		if !x.goodbye.Load() || !errors.Is(cause, context.Canceled) {
			x.queue.Close()
			_ = x.stream.Close()
			return
		}
		// For good: with a goodbye the gateway need not hold the address. The writing goroutine
		// closes the stream behind it.
		x.queue.Finish(proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown}))
		time.AfterFunc(lingerTime, func() { x.queue.Close(); _ = x.stream.Close() })
	})
}
