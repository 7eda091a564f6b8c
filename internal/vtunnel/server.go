package vtunnel

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ferry/internal/admission"
	"ferry/internal/carrier"
)

// Loopback is where a Server connects to unless it is told otherwise: the default destination of the original's clients. The
// original lets them go everywhere.
var Loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

// ServerConfig is what a Server can be told. The zero value of a field means its default, which is what it says in the comment.
type ServerConfig struct {
	Auth   string         // DefaultAuth; 31 bytes of it count
	Accept []netip.Prefix // destinations that may be asked for, IPv4: Loopback
	// Admit returns the source of a connection, or why it may not come in: everybody may, and nobody has a source.
	Admit func(net.Conn) (netip.Addr, error)
	Max   int          // tunnels at once, with connections that have not asked yet, a quarter at most: 1024. One source has half of them
	Count *Counters    // its own
	Log   *slog.Logger // nothing
	Lines *Lines       // nothing

	RequestTimeout time.Duration // for a request: 10 s
	// PieceTimeout is how long the next piece of a request may take before what is there has to do: 1 s.
	PieceTimeout time.Duration
	Hold         time.Duration // of what the destination says, behind "ready": 75 ms
	HalfOpen     time.Duration // see the rules: 5 min
}

// A Server connects clients to destinations.
type Server struct {
	c       ServerConfig
	gate    *admission.Gate
	refused *rate.Limiter // of lines in the log about those
}

// NewServer returns a Server.
func NewServer(c ServerConfig) *Server {
	c.Auth = cut(c.Auth)
	if len(c.Accept) == 0 {
		c.Accept = Loopback
	}
	c.Max = cmp.Or(c.Max, 1024)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Count == nil {
		c.Count = new(Counters)
	}
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 10*time.Second)
	c.PieceTimeout = cmp.Or(c.PieceTimeout, time.Second)
	c.Hold, c.HalfOpen = cmp.Or(c.Hold, holdBack), cmp.Or(c.HalfOpen, halfOpen)
	return &Server{c: c, gate: admission.New(crowd(c.Max)), refused: rate.NewLimiter(10, 10)}
}

// Serve serves who comes by a listener until ctx is done, and closes it. It waits for all tunnels.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return serve(ctx, l, s.c.Log, func(conn net.Conn) { s.enter(ctx, conn) })
}

// serve calls handle, in a goroutine, for each connection that a listener has, until ctx is done, and waits for them.
func serve(ctx context.Context, l net.Listener, log *slog.Logger, handle func(net.Conn)) error {
	var all sync.WaitGroup
	defer all.Wait()
	return carrier.Accept(ctx, l, log, func(conn net.Conn) { all.Go(func() { handle(conn) }) })
}

// crowd returns how many may be there. Who has not asked proves nothing, and behind one source may be many who have nothing to do with each other: so of those
// one has to go when there are too many, whoever comes. Tunnels stay, and one source that opened them all would keep the others out.
func crowd(most int) admission.Limits {
	const noLimit = 1 << 30
	return admission.Limits{
		Sessions: most, Plain: most, Unknown: max(most/4, 1), SourceSessions: max(most/2, 1),
		SourceUnknown: noLimit, SourceRate: noLimit, SourceBurst: noLimit, Rate: noLimit,
	}
}

// enter serves a connection if there is room and it may come in.
func (s *Server) enter(ctx context.Context, conn net.Conn) {
	var source netip.Addr
	if s.c.Admit != nil {
		var err error
		if source, err = s.c.Admit(conn); err != nil {
			s.refuse(conn, &s.c.Count.source, err)
			_ = conn.Close()
			return
		}
	}
	visit, why := s.gate.Enter(source, time.Now(), func() { _ = conn.Close() })
	if why != admission.Admitted {
		count, err := &s.c.Count.full, fmt.Errorf("%d tunnels are there already", s.c.Max)
		if why == admission.SourceSessions {
			count, err = &s.c.Count.share, fmt.Errorf("half of the %d tunnels that there may be are of its source already", s.c.Max)
		}
		s.refuse(conn, count, err)
		carrier.Reset(conn)
		return
	}
	defer func() { visit.Leave(time.Now()) }()
	defer conn.Close()
	c, ok := conn.(stream)
	if !ok {
		panic("vtunnel: a listener has no streams")
	}
	s.handle(ctx, c, visit)
}

func (s *Server) refuse(conn net.Conn, count *atomic.Uint64, err error) {
	count.Add(1)
	if s.refused.Allow() {
		s.c.Log.Info("tunnel refused", "from", conn.RemoteAddr().String(), "err", err)
	}
}

// handle is the life of a connection.
func (s *Server) handle(ctx context.Context, conn stream, visit *admission.Visit) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	r, rest, err := s.readRequest(conn)
	var dest net.Conn
	answer, to := badRequest, netip.AddrPort{}
	if err == nil {
		answer, to, err = s.judge(r)
	}
	switch {
	case visit.Known(true, time.Now()) != admission.Admitted:
		s.refuse(conn, &s.c.Count.evicted, errEvicted)
		return
	case errors.Is(err, errNothing):
		s.c.Count.silent.Add(1)
		return
	case err == nil:
		answer, dest, err = s.dial(ctx, r, to)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(s.c.RequestTimeout)) // a client of vsock says how much it takes, also nothing
	if err != nil {
		s.refuse(conn, s.c.Count.of(answer), err)
		_, _ = io.WriteString(conn, string(answer))
		carrier.Drain(conn)
		return
	}
	defer dest.Close()
	s.c.Count.made.Add(1)
	defer s.c.Count.ended.Add(1)
	if _, err := io.WriteString(conn, string(ready)); err != nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Time{})
	s.relay(ctx, conn, rest, dest)
	s.c.Lines.Say("finished processing tunnel, thread exiting")
}

// relay is a tunnel once it is made.
func (s *Server) relay(ctx context.Context, conn stream, rest []byte, dest net.Conn) {
	switch dest := dest.(type) {
	case *net.UDPConn:
		relayDatagrams(ctx, conn, rest, dest)
	case *net.TCPConn:
		hold := s.c.Hold
		if len(rest) > 0 { // this client reads replies by how they begin
			hold = 0
			if _, err := dest.Write(rest); err != nil {
				return
			}
		}
		r := relay{a: conn, b: dest, hold: hold, silent: s.c.HalfOpen, lines: s.c.Lines}
		r.run(ctx)
	}
}

var (
	// errNothing: who has said nothing gets no answer.
	errNothing = errors.New("no request")
	errRequest = errors.New("this is no request: auth string, IPv4 address, port, and tcp or udp are expected")
	errAuth    = errors.New("a wrong auth string")
	errEvicted = errors.New("too many connections that ask for nothing, and this one had to go")
)

// readRequest reads a request, and what its client has sent behind it.
func (s *Server) readRequest(conn net.Conn) (r request, rest []byte, err error) {
	b := make([]byte, 0, maxRequest)
	end := time.Now().Add(s.c.RequestTimeout)
	_ = conn.SetReadDeadline(end)
	for {
		n, err := conn.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		r, at, p := consumeRequest(b)
		last := err != nil || len(b) == cap(b)
		switch {
		case p == whole, p == enough && last:
			_ = conn.SetReadDeadline(time.Time{})
			return r, b[at:], nil
		case len(b) == 0 && last:
			return r, nil, errNothing
		case p == broken, last:
			return r, nil, errRequest
		}
		if piece := time.Now().Add(s.c.PieceTimeout); piece.Before(end) {
			_ = conn.SetReadDeadline(piece)
		}
	}
}

// judge decides about a request: the address first, as the original does.
func (s *Server) judge(r request) (reply, netip.AddrPort, error) {
	to := netip.AddrPort{}
	addr, err := netip.ParseAddr(r.addr)
	if err != nil || !addr.Is4() {
		return badAddress, to, fmt.Errorf("%q is no IPv4 address", r.addr)
	}
	if !s.accepts(addr) {
		return badAddress, to, fmt.Errorf("%s is not among the destinations that are accepted: accept=%s/32 would", addr, addr)
	}
	if subtle.ConstantTimeCompare([]byte(r.auth), []byte(s.c.Auth)) == 0 {
		return badAuth, to, errAuth
	}
	return ready, netip.AddrPortFrom(addr, uint16(r.port)), nil
}

func (s *Server) accepts(addr netip.Addr) bool {
	for _, p := range s.c.Accept {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// dial connects to a destination.
func (s *Server) dial(ctx context.Context, r request, to netip.AddrPort) (reply, net.Conn, error) {
	network := "tcp"
	if r.udp() {
		network = "udp"
	}
	s.c.Lines.Say("setting up tunnel to %s:%d %s", to.Addr(), r.port, shown(r.proto, network))
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := net.Dialer{}
	d.SetMultipathTCP(false) // Landlock's rules for TCP do not cover it
	dest, err := d.DialContext(ctx, network+"4", net.JoinHostPort(to.Addr().String(), strconv.Itoa(int(to.Port()))))
	if err != nil {
		return notReached, nil, err
	}
	s.c.Log.Debug("tunnel", "to", to, "proto", network)
	return ready, dest, nil
}

// shown is a stranger's word if a terminal can have it, else ours.
func shown(word, ours string) string {
	for _, r := range word {
		if r <= ' ' || r > '~' {
			return ours
		}
	}
	return word
}
