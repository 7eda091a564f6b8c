package nameserver

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"ferry/internal/carrier"
)

// Port is that of DNS.
const Port = 53

// Config is what a Server is made of. The zero value of a field means its default, which is what it says in the comment.
type Config struct {
	Domain    string // below which clients have their names; it has no default, and neither have the next three
	Gateway   netip.Addr
	Pool      netip.Prefix
	Directory Directory
	Asks      func(netip.Addr) bool // who may ask: who has an address of the pool
	Timeout   time.Duration         // of a question upstream: 4.5 s, before a client that waits for 5 s gives up
	Log       *slog.Logger          // nothing
}

// Bounds on what is under way.
const (
	maxWaiting, maxWaitingEach = 1024, 128 // questions upstream
	maxConns, maxConnsEach     = 256, 16   // of TCP
	pipelined                  = 16        // questions of one connection upstream; behind those it is read no more until one is answered
	idle                       = 10 * time.Second
)

// A Server answers questions.
type Server struct {
	c       Config
	domain  string // small letters, with a dot at the end
	zones   Zones  // that were added
	table   atomic.Pointer[table]
	waiting *limits
	conns   *limits
	count   counters
}

// New returns a Server that knows the clients, and nobody to ask for anything else until Set.
func New(c Config) *Server {
	c.Timeout = cmp.Or(c.Timeout, 4500*time.Millisecond)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Asks == nil {
		c.Asks = c.Pool.Contains
	}
	s := &Server{c: c, domain: dns.CanonicalName(c.Domain), waiting: newLimits(maxWaiting, maxWaitingEach), conns: newLimits(maxConns, maxConnsEach)}
	s.table.Store(&table{upstream: &group{}})
	return s
}

// Zones are those that are added while the Server runs. They come before those of Settings.
func (s *Server) Zones() *Zones { return &s.zones }

// All returns those zones, and behind them those of Settings.
func (s *Server) All() []Zone { return append(s.zones.All(), s.table.Load().zones.All()...) }

// Set replaces the settings. It may be called at any time; after an error nothing has changed. This server itself is nobody to ask: it is left out.
func (s *Server) Set(settings Settings) error {
	t, err := newTable(settings)
	if err != nil {
		return err
	}
	own := netip.AddrPortFrom(s.c.Gateway, Port)
	for _, g := range append(t.groups, t.upstream) {
		g.servers = slices.DeleteFunc(g.servers, func(a netip.AddrPort) bool { return a == own })
	}
	s.table.Store(t)
	return nil
}

// Serve answers by both sockets until ctx is done, closes them, and waits for all questions.
func (s *Server) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer udp.Close()
	stop := context.AfterFunc(ctx, func() { _ = udp.Close() })
	defer stop()
	var work sync.WaitGroup
	var err error
	work.Go(func() {
		defer cancel()
		err = s.accept(ctx, tcp, &work)
	})
	fault := s.receive(ctx, udp, &work)
	cancel()
	work.Wait()
	return errors.Join(fault, err)
}

// A pause is how long a socket rests that has returned an error: it grows while nothing else comes.
type pause time.Duration

func (p *pause) wait(ctx context.Context) {
	*p = min(max(2**p, pause(5*time.Millisecond)), pause(time.Second))
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(*p)):
	}
}

// receive answers what comes by UDP.
func (s *Server) receive(ctx context.Context, conn net.PacketConn, work *sync.WaitGroup) error {
	b := make([]byte, maxQuery)
	var rest pause
	for {
		n, from, err := conn.ReadFrom(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			rest.wait(ctx)
			continue
		}
		rest = 0
		client := addrOf(from)
		if !s.c.Asks(client) {
			s.count.stranger.Add(1)
			continue
		}
		reply, far := s.answer(b[:n], client, false)
		switch {
		case far == nil:
			s.send(conn, from, reply)
		case !s.waiting.enter(client):
			s.count.busy.Add(1)
		default:
			work.Go(func() {
				defer s.waiting.leave(client)
				s.send(conn, from, fit(s.fetch(ctx, far, false), far.limit))
			})
		}
	}
}

func (s *Server) send(conn net.PacketConn, to net.Addr, reply []byte) {
	if reply == nil {
		return
	}
	if _, err := conn.WriteTo(reply, to); err != nil {
		s.c.Log.Debug("answer not sent", "client", to, "err", err)
	}
}

// fit returns an answer that a client takes by UDP.
func fit(b []byte, limit int) []byte {
	if len(b) > limit {
		return cut(b)
	}
	return b
}

// accept answers what comes by TCP. work has a goroutine of each connection.
func (s *Server) accept(ctx context.Context, l net.Listener, work *sync.WaitGroup) error {
	return carrier.Accept(ctx, l, s.c.Log, func(conn net.Conn) {
		client := addrOf(conn.RemoteAddr())
		if !s.c.Asks(client) {
			s.count.stranger.Add(1)
			_ = conn.Close()
			return
		}
		if !s.conns.enter(client) {
			s.count.busy.Add(1)
			_ = conn.Close()
			return
		}
		work.Go(func() {
			defer s.conns.leave(client)
			s.converse(ctx, conn, client)
		})
	})
}

// converse answers the questions of a connection until it is silent for too long or ends, each as soon as its answer is there (RFC 7766 section 6.2.1.1):
//
//	read --+-- known here ----------------+--> replies --> write
//	       +-- fetch, pipelined at once --+
func (s *Server) converse(ctx context.Context, conn net.Conn, client netip.Addr) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	replies := make(chan []byte)
	var asking, writing sync.WaitGroup
	writing.Go(func() {
		for b := range replies {
			if writeReply(conn, b) != nil {
				cancel() // what comes still is dropped
			}
		}
	})
	room := make(chan struct{}, pipelined)
	b := make([]byte, 2+maxQuery)
	for {
		n := s.readQuestion(conn, b)
		if n == 0 {
			break
		}
		reply, far := s.answer(b[:n], client, true)
		if far == nil {
			if reply == nil {
				break
			}
			replies <- reply
			continue
		}
		room <- struct{}{}
		if !s.waiting.enter(client) {
			s.count.busy.Add(1)
			break
		}
		asking.Go(func() {
			defer func() { s.waiting.leave(client); <-room }()
			replies <- s.fetch(ctx, far, true)
		})
	}
	asking.Wait()
	close(replies)
	writing.Wait()
}

// readQuestion reads a message into b and returns its length; 0: none comes any more.
func (s *Server) readQuestion(conn net.Conn, b []byte) int {
	_ = conn.SetReadDeadline(time.Now().Add(idle))
	if _, err := io.ReadFull(conn, b[:2]); err != nil {
		return 0
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > maxQuery {
		s.count.malformed.Add(1)
		return 0
	}
	if _, err := io.ReadFull(conn, b[:n]); err != nil {
		return 0
	}
	return n
}

func writeReply(conn net.Conn, b []byte) error {
	_ = conn.SetWriteDeadline(time.Now().Add(idle))
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...))
	return err
}

// addrOf returns the address that a socket has named.
func addrOf(a net.Addr) netip.Addr {
	if p, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return p.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
