package client

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/buffer"
	"ferry/internal/carrier"
	"ferry/internal/failover"
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
	if e.Reason == proto.ReasonReplaced {
		s += ": if this device was not started twice, another one has its key: give each one of its own ('vpncli join')"
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
	fair    *router.Fair // before queue; a session has its own
	port    *router.Port
	forward *router.Forwarder
	framer  proto.Framer
	session *session.Client
	tunnel  *tunnel            // nil: the connection is all there is
	reader  *multipath.Reader  // with a tunnel
	path    *multipath.Path    // with a tunnel
	joined  chan session.Lease // capacity 1; sent to once by the reading goroutine: the lease is complete

	// Of the roamer's goroutine:
	roamer    *roamer
	way       failover.WayID
	id        failover.PathID // 0: not a path yet
	epoch     uint64          // with a tunnel
	shown     identity.Pin    // the key that the gateway has shown
	lease     session.Lease   // with an id
	abandoned bool            // nobody waits for it any more

	start   time.Time
	up      bool        // the lease is on the interface
	goodbye atomic.Bool // up, and the gateway understands goodbye frames
	endOnce sync.Once
	cause   error         // set before ended is closed
	ended   chan struct{} // closed by end
}

// want is what to ask a gateway for.
func (c *client) want() session.Want {
	want := session.Want{Static: c.c.Address, Name: c.c.Name, Last: c.last, Features: proto.FeatureSuper |
		proto.FeatureConfig | proto.FeaturePing | proto.FeatureGoodbye}
	if c.exit.Port().Caps().USO {
		want.Features |= proto.FeatureUSO
	}
	if !c.c.Key.IsZero() {
		want.Features |= proto.FeatureSession
	}
	if !c.c.Publish.IsZero() {
		want.Features |= proto.FeaturePublish
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
	if s.Max() > 0 {
		x.queue.Whole()
	}
	x.fair = router.NewFair(x.queue, new(buffer.Budget), &c.total)
	x.queue.OnRoom(x.fair.Next)
	x.port = router.NewPort(1, router.Caps{}, x.fair)
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
		if x.fresh(j - i) { // it has a number, as all data items
			x.forward.Drop(router.DropIPv6)
		}
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
			l := x.session.Lease()
			x.roamer.do(func() { x.client.learn(l, x.shown) })
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

// progress tells the client as soon as the lease is complete.
func (x *connection) progress(done bool, err error) error {
	if err != nil || !done || x.up {
		return err
	}
	l := x.session.Lease()
	x.framer.Extended = l.Extended
	x.queue.OnePerWrite(!l.Extended)
	x.port.SetCaps(router.Caps{Super: l.Features.Has(proto.FeatureSuper), USO: l.Features.Has(proto.FeatureUSO)})
	return x.roamer.call(func() error { return x.roamer.leased(x, l) })
}

// isUp notes that the connection has a lease, from which on the gateway is probed.
func (x *connection) isUp(l session.Lease) {
	x.up = true
	x.goodbye.Store(l.Features.Has(proto.FeatureGoodbye))
	x.joined <- l
}

// run reads and writes until the connection ends.
func (x *connection) run() {
	var others sync.WaitGroup
	others.Go(func() {
		if err := x.queue.Run(); err != nil {
			x.end(err)
		}
		_ = x.stream.Close()
	})
	others.Go(x.keepAlive)
	x.end(x.read())
	others.Wait()
	x.fair.Close()
	x.stream.Release()
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

// An echo is a ping of which package failover wants to know whether it comes back: mark (4), token (8), and zeros.
const (
	echoMark   = "echo"
	echoHeader = 12
)

// echo sends one that is size bytes long on the carrier, if there is room.
func (x *connection) echo(token uint64, size int) {
	payload := make([]byte, min(max(size-proto.FrameHeaderLen, echoHeader), proto.MaxPing))
	binary.BigEndian.PutUint64(payload[copy(payload, echoMark):], token)
	x.queue.Send(proto.AppendPing(nil, payload))
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
	switch {
	case len(payload) >= echoHeader && string(payload[:4]) == echoMark:
		token := binary.BigEndian.Uint64(payload[4:])
		x.roamer.do(func() { x.roamer.echoed(x, token) })
		return
	case len(payload) != 8:
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
		x.fair.Flush()
		x.queue.Finish(proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown}))
		time.AfterFunc(lingerTime, func() { x.queue.Close(); _ = x.stream.Close() })
	})
}
