package gateway

import (
	"context"
	"errors"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
	"ferry/internal/proto"
)

// enrol serves a device that has come to join: it shows the secret of an invitation, and the gateway
// knows its key from then on. It ends with ctx.
//
//	device                    gateway
//	join (secret) --------->  Redeem, to disk
//	      <-----------------  joined (name, address), or a goodbye that says why not
func (g *Gateway) enrol(ctx context.Context, s carrier.Link, key identity.Public) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	defer s.Close()
	defer s.Release()
	secret, err := readJoin(s)
	if err != nil {
		return err
	}
	p, err := g.devices.Redeem(secret, key, time.Now())
	if err != nil {
		bye := proto.GoodbyeMessage{Reason: proto.ReasonInvitation}
		if errors.Is(err, peerstore.ErrUnavailable) {
			bye.Reason = proto.ReasonStorage
		} else if !errors.Is(err, peerstore.ErrInvitation) {
			bye.Text = err.Error()
		}
		cause, _ := explain(err)
		g.strange.Info(cause, "device refused", "from", s.RemoteAddr().String(), "key", key, "err", err)
		return errors.Join(err, s.Write(proto.AppendGoodbye(nil, bye), nil))
	}
	g.log.Info("device joined by invitation", "from", s.RemoteAddr().String(), "key", key, "name", p.Name, "addr", p.Addrs[0])
	g.devicesChanged()
	if err := s.Write(proto.AppendJoined(nil, proto.JoinedMessage{Name: p.Name, Addr: p.Addrs[0]}), nil); err != nil {
		return err
	}
	return errJoined
}

// readJoin waits for a join frame, and takes nothing else.
func readJoin(s carrier.Link) (proto.Secret, error) {
	f := proto.Framer{Extended: true}
	for {
		buf, start, end, err := s.Fill()
		if err != nil {
			return proto.Secret{}, err
		}
		kind, n, err := f.Next(buf[start:end])
		switch {
		case err != nil:
			return proto.Secret{}, err
		case n == 0:
			continue
		case kind != proto.KindJoin:
			return proto.Secret{}, proto.ErrFrame
		}
		return proto.ParseJoin(buf[start : start+n])
	}
}
