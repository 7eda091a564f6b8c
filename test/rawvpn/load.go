package rawvpn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// LoadConfig says what Load does.
type LoadConfig struct {
	Server    string        // host:port
	Gateway   netip.Addr    // inside the tunnel; a part of the packets are pings to it
	Clients   int           // every other one is a 2013 client
	For       time.Duration // after all have joined
	Rate      float64       // packets per second of each client
	Churn     float64       // part of the clients that leave and join again in a minute
	Keepalive time.Duration // between the keepalives of a client; 0: none
	Joined    func()        // called when all have joined; may be nil
}

// How Load goes on.
const (
	joiners    = 64              // clients that join at the same time
	pingShare  = 10              // one packet in so many is a ping to the gateway
	drainTime  = 3 * time.Second // for what is still under way at the end
	maxReasons = 20              // of those that are told
)

// Result is what Load has seen.
type Result struct {
	Clients    int     `json:"clients"`
	Seconds    float64 `json:"seconds"`
	Sent       int     `json:"sent"`
	Received   int     `json:"received"`
	Orphaned   int     `json:"orphaned"` // of or for a client that left meanwhile
	Lost       int     `json:"lost"`
	Duplicate  int     `json:"duplicate"`
	Misrouted  int     `json:"misrouted"` // came to a client that has another address
	Corrupt    int     `json:"corrupt"`
	Doubles    int     `json:"double_addresses"`
	Dropped    int     `json:"dropped_connections"` // by the server
	Rejoined   int     `json:"rejoined"`
	Keepalives int     `json:"keepalives"`
	Echoes     int     `json:"echoes"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`

	Reasons []string `json:"reasons,omitempty"` // the first errors
}

// LossPercent is how much of what could arrive did not.
func (r *Result) LossPercent() float64 {
	if r.Sent == 0 {
		return 100
	}
	return 100 * float64(r.Lost) / float64(r.Sent)
}

// Violations returns what must not happen, and did: a packet twice or at the wrong client, an address
// held by two, a connection that the server ended, more than maxLoss percent lost.
func (r *Result) Violations(maxLoss float64) (all []string) {
	for _, v := range []struct {
		name string
		n    int
	}{
		{"duplicate packets", r.Duplicate}, {"misrouted packets", r.Misrouted}, {"corrupt packets", r.Corrupt},
		{"addresses held twice", r.Doubles}, {"connections dropped", r.Dropped},
	} {
		if v.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", v.n, v.name))
		}
	}
	if loss := r.LossPercent(); loss > maxLoss {
		all = append(all, fmt.Sprintf("%.3f %% lost", loss))
	}
	return all
}

// Load lets c.Clients clients join, send to each other, and leave. The error is that of a client that
// could not join at the start, or of ctx.
func Load(ctx context.Context, c LoadConfig) (Result, error) {
	l := &load{c: c, ledger: newLedger()}
	defer l.stop()
	if err := l.start(ctx); err != nil {
		return Result{}, err
	}
	if c.Joined != nil {
		c.Joined()
	}
	began := time.Now()
	senders, cancel := context.WithTimeout(ctx, c.For)
	defer cancel()
	var sending sync.WaitGroup
	for _, s := range l.stations {
		sending.Go(func() { l.send(senders, s) })
	}
	if c.Churn > 0 {
		sending.Go(func() { l.churn(senders) })
	}
	sending.Wait()
	took := time.Since(began)
	l.ledger.drain(ctx, drainTime)
	r := l.ledger.result()
	r.Clients, r.Seconds = c.Clients, took.Seconds()
	return r, ctx.Err()
}

// load is a run of Load.
type load struct {
	c        LoadConfig
	ledger   *ledger
	stations []*station
	reading  sync.WaitGroup
}

// A station is a client, which may have several connections one after the other.
type station struct {
	ask Ask

	mu     sync.Mutex
	client *Client // nil while it is away
}

func (s *station) current() *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

func (l *load) start(ctx context.Context) error {
	errs := make(chan error, l.c.Clients)
	slots := make(chan struct{}, joiners)
	var joining sync.WaitGroup
	for i := range l.c.Clients {
		s := &station{}
		if i%2 == 0 {
			s.ask.Features = All
		}
		l.stations = append(l.stations, s)
		slots <- struct{}{}
		joining.Go(func() {
			defer func() { <-slots }()
			if err := l.join(ctx, s); err != nil {
				errs <- err
			}
		})
	}
	joining.Wait()
	select {
	case err := <-errs:
		return fmt.Errorf("join: %w", err)
	default:
		return ctx.Err()
	}
}

// join connects s and starts to read, until the connection ends.
func (l *load) join(ctx context.Context, s *station) error {
	c, err := Dial(ctx, l.c.Server)
	if err != nil {
		return err
	}
	c.Timeout = 30 * time.Second
	if err := c.Join(s.ask); err != nil {
		_ = c.Close()
		return err
	}
	l.ledger.joined(c)
	s.mu.Lock()
	s.client = c
	s.mu.Unlock()
	l.reading.Go(func() { l.read(s, c) })
	return nil
}

// read takes what comes in until the connection ends, which only leave may do.
func (l *load) read(s *station, c *Client) {
	for {
		item, err := c.ReadItem()
		if err != nil {
			if s.current() == c {
				l.ledger.dropped(c, err)
			}
			return
		}
		switch item.Kind {
		case KindPacket:
			l.ledger.arrived(c, item.Packet)
		case KindKeepalive:
			l.ledger.count(func(r *Result) { r.Echoes++ })
		}
	}
}

// send sends at the rate of the load, from a random point of the first interval on.
func (l *load) send(ctx context.Context, s *station) {
	interval := time.Duration(float64(time.Second) / l.c.Rate)
	timer := time.NewTimer(time.Duration(rand.Int64N(int64(interval) + 1)))
	defer timer.Stop()
	alive := time.Now()
	for {
		var next time.Time
		select {
		case <-ctx.Done():
			return
		case now := <-timer.C:
			next = now.Add(interval)
		}
		if c := s.current(); c != nil {
			l.sendOne(c)
			if l.c.Keepalive > 0 && time.Since(alive) >= l.c.Keepalive {
				alive = time.Now()
				l.ledger.count(func(r *Result) { r.Keepalives++ })
				_ = c.Keepalive()
			}
		}
		timer.Reset(time.Until(next))
	}
}

// sendOne sends a packet to a random client, or a ping to the gateway.
func (l *load) sendOne(c *Client) {
	from := c.Lease.Addr
	if rand.IntN(pingShare) == 0 {
		_ = c.SendIP(Echo(from, l.c.Gateway, 1, 1, l.ledger.sent(c, c, from)))
		return
	}
	to := l.ledger.someone()
	if to == nil || to == c {
		return
	}
	payload := l.ledger.sent(c, to, to.Lease.Addr)
	_ = c.SendIP(Datagram(netip.AddrPortFrom(from, 4000), netip.AddrPortFrom(to.Lease.Addr, 4000), payload))
}

// churn lets random clients leave, in one of the ways that there are, and join again.
func (l *load) churn(ctx context.Context) {
	ticker := time.NewTicker(time.Duration(float64(time.Minute) / (l.c.Churn * float64(l.c.Clients))))
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s := l.stations[rand.IntN(len(l.stations))]
		l.leave(s, n%3)
		if err := l.join(ctx, s); err != nil && ctx.Err() == nil {
			l.ledger.dropped(nil, fmt.Errorf("join again: %w", err))
		}
		l.ledger.count(func(r *Result) { r.Rejoined++ })
	}
}

func (l *load) leave(s *station, how int) {
	s.mu.Lock()
	c := s.client
	s.client = nil
	s.mu.Unlock()
	if c == nil {
		return
	}
	l.ledger.left(c)
	switch {
	case how == 0:
		_ = c.Abort()
		return
	case how == 1 && c.Lease.Features&Goodbye != 0:
		_ = c.SendRaw(Frame(0x86, []byte{1, 0, 0}))
	}
	_ = c.Close()
}

func (l *load) stop() {
	for _, s := range l.stations {
		l.leave(s, 1)
	}
	l.reading.Wait()
}
