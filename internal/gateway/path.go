package gateway

import (
	"errors"
	"net/netip"

	"ferry/internal/identity"
	"ferry/internal/multipath"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// A connection of a device is a path of its session: the first one, which begins it, or one more.

// Why a connection does not become a path of a session.
var (
	errEpoch = errors.New("an attach frame that was seen before, or is much older than one that was")
	errEnded = errors.New("the session has ended")
)

// offers are the extensions for a client with that key, or without one.
func (g *Gateway) offers(key identity.Public) proto.Features {
	offer := g.offer
	if key != (identity.Public{}) {
		offer |= proto.FeatureSession
	}
	if !g.c().Publish.IsZero() {
		offer |= proto.FeaturePublish
	}
	return offer
}

// begin makes a session that outlives this connection, the first path of it.
func (p *peer) begin() {
	t := p.g.newTunnel(p)
	p.tunnel.Store(t)
	p.reader = t.recv.NewReader(0, nil)
	p.port.SendBy(t.fair)
}

// attach makes a connection whose client names a session a path of it.
func (p *peer) attach(frame []byte) error {
	m, err := proto.ParseAttach(frame)
	switch {
	case err != nil:
		return err
	case p.key == (identity.Public{}), p.lease.Addr.IsValid(), p.tunnel.Load() != nil:
		return proto.ErrMessage
	}
	p.goodbye.Store(true)
	p.g.mu.Lock()
	t := p.g.tunnels[m.Session]
	p.g.mu.Unlock()
	if t == nil || t.key != p.key { // who guesses learns nothing
		p.g.strange.Info("session_unknown", "no such session: a new one begins", "peer", p.id, "from", p.stream.RemoteAddr().String())
		return p.answer(proto.AppendAttached(nil, proto.AttachedMessage{}))
	}
	if _, err := p.g.device(p.key); err != nil { // since the handshake
		return err
	}
	path, use, alone, err := t.join(p, m)
	if err != nil {
		return err
	}
	p.g.mu.Lock()
	p.port = t.port
	p.g.mu.Unlock()
	p.tunnel.Store(t)
	p.visit.Share()
	p.super = t.caps.Super
	p.forward = router.NewForwarder(p.g.table, p.port, &p.g.total, p.g.gateway).Tapped(&p.g.taps)
	p.accepted.Store(0)
	p.reader = t.recv.NewReader(0, alone)
	t.send.Acked(m.Received)
	next := p.g.c().NextKey
	p.reply = proto.AppendAttached(p.reply[:0], proto.AttachedMessage{Known: true, Received: t.recv.Received()})
	p.reply = proto.AppendConfig(p.reply, proto.PushedConfig{NextKey: next})
	sent := p.queue.SendFirst(p.reply, func() {
		if use {
			t.send.Use(path, nil, true)
		}
	})
	if !sent {
		return errEnded
	}
	p.pushed.Store(true)
	p.g.tell(p.key, next)
	t.trim()
	p.log.Info("client is back", "addr", p.port.Addr(), "session", t.nr, "path", m.Epoch, "standby", !use)
	return nil
}

// fresh tells whether the data frame that has come is one to forward.
func (p *peer) fresh(size int) bool { return p.reader == nil || p.reader.Take(size) }

// pathItem treats what concerns the session of which the connection is a path.
func (p *peer) pathItem(kind proto.Kind, b []byte) error {
	switch kind {
	case proto.KindAck:
		received, err := proto.ParseNumber(b)
		p.tunnel.Load().send.Acked(received)
		return err
	case proto.KindNumber:
		return p.reader.Number(b)
	case proto.KindSwitch:
		m, err := proto.ParseSwitch(b)
		if err != nil {
			return err
		}
		if t := p.tunnel.Load(); !m.Again && t.turnsTo(p, m.Epoch) {
			p.reader.Hold(p.ended)
		}
		p.tunnel.Load().follow(m)
	case proto.KindLimit:
		n, err := proto.ParseLimit(b)
		p.tunnel.Load().limit(p, n)
		return err
	case proto.KindFragment:
		whole, err := p.reader.Fragment(b)
		if whole == nil {
			return err
		}
		if proto.IsFrame(whole[multipath.Headroom:]) && !p.super {
			return proto.ErrFrame
		}
		p.forward.Item(whole, multipath.Headroom, len(whole))
	}
	return nil // a pong, or a frame of a later version
}

// An owner has the address of a device: a session, or the connection of a client that knows none.
type owner interface {
	number() uint64
	end(cause string, bye proto.GoodbyeMessage)
}

// owner returns who has the address of p's client.
func (p *peer) owner() owner {
	if t := p.tunnel.Load(); t != nil {
		return t
	}
	return p
}

func (p *peer) number() uint64 { return p.id }

// disown takes an address back, unless another one has it. The caller holds mu.
func (g *Gateway) disown(o owner, addr netip.Addr) {
	if g.owners[addr] == o {
		delete(g.owners, addr)
	}
}
