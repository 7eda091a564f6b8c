package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"ferry/internal/addrpool"
	"ferry/internal/admission"
	"ferry/internal/carrier/connectip"
	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/quic"
	"ferry/internal/carrier/ssh"
	"ferry/internal/carrier/tls"
	"ferry/internal/carrier/ws"
	"ferry/internal/l2port"
	"ferry/internal/leasestore"
	"ferry/internal/peerstore"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// errLeft ends the reading of a client that said goodbye.
var errLeft = errors.New("client left")

// A refusal ends the reading of a client that can not have the address it asked for.
type refusal struct{ err error }

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

// A crowdedError ends a connection for which there is no room.
type crowdedError admission.Reason

func (e crowdedError) Error() string { return "no room: " + string(e) }

// causes are the names under which the ends of connections are counted, by what ended them.
var causes = []struct {
	err    error
	name   string
	reason proto.Reason
}{
	{errLeft, "left", 0},
	{io.EOF, "closed", 0},
	{proto.ErrNotIP, "not_ip", proto.ReasonProtocol},
	{proto.ErrHeader, "bad_header", proto.ReasonProtocol},
	{proto.ErrFrame, "bad_frame", proto.ReasonProtocol},
	{proto.ErrMessage, "bad_message", proto.ReasonProtocol},
	{addrpool.ErrInUse, "address_in_use", proto.ReasonInUse},
	{addrpool.ErrHeld, "address_held", proto.ReasonHeld},
	{addrpool.ErrExhausted, "pool_exhausted", proto.ReasonExhausted},
	{leasestore.ErrUnavailable, "lease_storage", proto.ReasonStorage},
	{errPlain, "plain_refused", 0},
	{errFrom, "from_refused", 0},
	{errUnknown, "key_unknown", proto.ReasonRevoked},
	{errDisabled, "key_disabled", proto.ReasonRevoked},
	{errEpoch, "attach_old", proto.ReasonProtocol},
	{errEnded, "session_ended", proto.ReasonReplaced},
	{errJoined, "joined", 0},
	{net.ErrClosed, string(admission.Evicted), 0}, // by the gate: all other ends have a cause before
	{peerstore.ErrInvitation, "invitation", 0},
	{peerstore.ErrUnavailable, "peer_storage", 0},
	{context.DeadlineExceeded, "join_timeout", 0},
	{l2port.ErrFrame, "bad_ethernet", 0},
	{tls.ErrRecord, "bad_record", 0},
	{tls.ErrHandshake, "handshake", 0},
	{datagram.ErrHandshake, "handshake", 0},
	{quic.ErrHandshake, "handshake", 0},
	{connectip.ErrRequest, "http", 0},
	{ws.ErrRequest, "http", 0},
	{ws.ErrTLS, "https", 0},
	{ssh.ErrService, "ssh_service", 0},
	{ssh.ErrHandshake, "ssh", 0},
}

// explain returns the name under which the end of a connection is counted, and what to tell the client.
func explain(err error) (cause string, bye proto.GoodbyeMessage) {
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.name, proto.GoodbyeMessage{Reason: c.reason, Text: textOf(err), RetryAfter: retryAfter(err)}
		}
	}
	if why := new(crowdedError); errors.As(err, why) {
		return string(*why), proto.GoodbyeMessage{Reason: proto.ReasonFull}
	}
	if errors.As(err, new(refusal)) {
		return "address_refused", proto.GoodbyeMessage{Reason: proto.ReasonRefused, Text: textOf(err)}
	}
	return "reset", proto.GoodbyeMessage{}
}

// textOf is what the client's user reads. Only of refusals: other errors may speak of this host.
func textOf(err error) string {
	if errors.As(err, new(refusal)) && !errors.Is(err, leasestore.ErrUnavailable) {
		return err.Error()
	}
	return ""
}

func retryAfter(err error) time.Duration {
	var held *addrpool.HeldError
	if errors.As(err, &held) {
		return max(time.Until(held.Until), time.Second)
	}
	return 0
}

// closings count why connections ended or were not taken.
type closings struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (c *closings) count(cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]uint64{}
	}
	c.n[cause]++
}

func (c *closings) counts() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// reports logs all counters whenever the operator asks for them.
func (g *Gateway) reports(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.c().Report:
			g.report("report")
		}
	}
}

func (g *Gateway) report(msg string) {
	g.mu.Lock()
	peers, ports := make([]*peer, 0, len(g.peers)), make([]*router.Port, 0, len(g.peers))
	for _, p := range g.peers {
		peers, ports = append(peers, p), append(ports, p.port)
	}
	g.mu.Unlock()
	for i, p := range peers {
		s := ports[i].Stats()
		g.log.Info("peer", "peer", p.id, "addr", ports[i].Addr(), "from", p.stream.RemoteAddr().String(),
			"received", p.stream.Received(), "sent", p.stream.Sent(), "queued", p.queue.Queued(),
			"packets", s.Packets, "drops", s.Drops)
	}
	s, out := g.total.Stats(), g.exit.Port().Stats()
	g.log.Info(msg, "peers", len(peers), "packets", s.Packets, "bytes", s.Bytes, "drops", s.Drops,
		"exit_packets", out.Packets, "exit_drops", out.Drops, "closed", g.closed.counts(),
		"queued", g.budget.Used(), slog.Group("pool", g.leases.attrs()...))
}
