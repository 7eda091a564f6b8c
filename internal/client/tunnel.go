package client

import (
	"errors"
	"slices"

	"ferry/internal/buffer"
	"ferry/internal/multipath"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/session"
)

// A tunnel is a session with numbers for its frames: it outlives the connections, each of which is a path of it, and
// keeps what they have lost.
type tunnel struct {
	id    proto.SessionID
	lease session.Lease
	port  *router.Port
	caps  router.Caps  // of port, where the path in use carries everything
	fair  *router.Fair // before send
	send  *multipath.Sender
	recv  *multipath.Receiver
	epoch uint64 // of the newest path
}

// newTunnel makes a session of a connection, its first path, over which a lease has come.
func (c *client) newTunnel(x *connection, l session.Lease) *tunnel {
	t := &tunnel{
		id: l.Session, lease: l,
		caps: *x.port.Caps(), port: router.NewPort(1, router.Caps{}, nil),
	}
	t.send = multipath.NewSender(multipath.Config{Limit: c.c.QueueBytes, Keep: c.c.KeepBytes, Budget: new(buffer.Budget), Fit: t.fit, Room: t.refill, Waiting: c.wake})
	t.fair = router.NewFair(t.send, new(buffer.Budget), &c.total)
	t.port.SendBy(t.fair)
	t.recv = multipath.NewReceiver(func(received uint64) {
		if path := t.send.Using(); path != nil {
			path.Ack(received)
		}
	})
	x.enter(t, nil)
	x.path.Begins()
	return t
}

// fit says what can be sent: datagrams do not carry super-packets.
func (t *tunnel) fit(max int) {
	caps := t.caps
	caps.Super = caps.Super && max == 0
	t.port.SetCaps(caps)
}

// refill hands on what waits before the Sender.
func (t *tunnel) refill() { t.fair.Refill() }

// enter makes x a path of t. Its reading goroutine waits, or is the caller. Frames of the path may have to wait until alone
// is closed.
func (x *connection) enter(t *tunnel, alone <-chan struct{}) {
	x.tunnel, x.port = t, t.port
	x.queue.OnRoom(t.fair.Next)
	x.path = multipath.NewPath(x.epoch, x.queue, x.stream)
	x.forward = router.NewForwarder(x.client.uplink, t.port, &x.client.total, noAddr)
	x.reader = t.recv.NewReader(0, alone)
}

// forget ends the session for this end. Its queues are closed.
func (c *client) forget() {
	if t := c.tunnel; t != nil {
		c.tunnel = nil
		c.uplink.Connect(nil)
		t.fair.Close()
		t.send.Close()
		t.recv.Close()
	}
}

// ask asks for a lease, over a connection by which nothing was said yet.
func (x *connection) ask() { x.queue.SendControl(x.session.Ask(nil)) }

// attach wants the connection to be one more path of a session, at once in use if there is no other.
func (x *connection) attach(t *tunnel, use bool) {
	t.epoch++
	x.tunnel, x.epoch = t, t.epoch
	x.session = session.Resumed(t.lease)
	x.queue.SendControl(proto.AppendAttach(nil, proto.AttachMessage{Session: t.id, Epoch: x.epoch, Received: t.recv.Received(), Use: use}))
}

// attached takes the gateway's answer to attach.
func (x *connection) attached(frame []byte) error {
	m, err := proto.ParseAttached(frame)
	switch {
	case err != nil:
		return err
	case x.tunnel == nil || x.up:
		return proto.ErrMessage
	}
	return x.roamer.call(func() error { return x.roamer.attached(x, m) })
}

// pathItem treats what concerns the session of which the connection is a path.
func (x *connection) pathItem(kind proto.Kind, b []byte) error {
	switch kind {
	case proto.KindAck:
		received, err := proto.ParseNumber(b)
		x.tunnel.send.Acked(received)
		return err
	case proto.KindNumber:
		return x.reader.Number(b)
	case proto.KindSwitch: // the gateway follows
		m, err := proto.ParseSwitch(b)
		if err == nil && m.Epoch == x.path.Epoch && !m.Again {
			x.reader.Hold(x.ended)
		}
		return err
	case proto.KindFragment:
		whole, err := x.reader.Fragment(b)
		if whole == nil {
			return err
		}
		x.forward.Item(whole, multipath.Headroom, len(whole))
	}
	return nil // a frame of a later version
}

// endsSession tells whether a connection has ended with its session.
func endsSession(cause error) bool {
	return saysBye(cause, proto.ReasonShutdown, proto.ReasonReplaced, proto.ReasonRevoked, proto.ReasonLifetime) || errors.Is(cause, errForgotten)
}

// saysBye tells whether err is a goodbye of the gateway for one of these reasons.
func saysBye(err error, reasons ...proto.Reason) bool {
	var bye *byeError
	return errors.As(err, &bye) && slices.Contains(reasons, bye.Reason)
}
