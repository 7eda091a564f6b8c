package rawvpn

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// magic begins the payload of each packet of a load; the number of the packet follows.
var magic = []byte("rawvpn01")

// A ledger knows each packet that is under way and each client that is there.
type ledger struct {
	mu      sync.Mutex // guards all that follows
	r       Result
	number  uint64
	pending map[uint64]flight
	latency histogram
	clients []*Client
	at      map[*Client]int // in clients
	owners  map[netip.Addr]*Client
}

// A flight is a packet under way.
type flight struct {
	sent     time.Time
	from, to *Client
	addr     netip.Addr // where it has to arrive
}

func newLedger() *ledger {
	return &ledger{
		pending: map[uint64]flight{},
		at:      map[*Client]int{}, owners: map[netip.Addr]*Client{},
	}
}

func (l *ledger) count(f func(r *Result)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.r)
}

// joined notes that c holds its address from now on.
func (l *ledger) joined(c *Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owners[c.Lease.Addr] != nil {
		l.r.Doubles++
		l.reason("address " + c.Lease.Addr.String() + " was given to two")
	}
	l.owners[c.Lease.Addr] = c
	l.at[c] = len(l.clients)
	l.clients = append(l.clients, c)
}

// left notes that c is about to leave. What is under way to it may get lost.
func (l *ledger) left(c *Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, there := l.at[c]
	if !there {
		return
	}
	last := l.clients[len(l.clients)-1]
	l.clients[i], l.at[last] = last, i
	l.clients = l.clients[:len(l.clients)-1]
	delete(l.at, c)
	if l.owners[c.Lease.Addr] == c {
		delete(l.owners, c.Lease.Addr)
	}
}

// dropped notes a connection that the server has ended, or not let in.
func (l *ledger) dropped(c *Client, err error) {
	if c != nil {
		l.left(c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r.Dropped++
	l.reason(err.Error())
}

// reason keeps the first ones. The caller holds mu.
func (l *ledger) reason(text string) {
	if len(l.r.Reasons) < maxReasons {
		l.r.Reasons = append(l.r.Reasons, text)
	}
}

func (l *ledger) someone() *Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.clients) == 0 {
		return nil
	}
	return l.clients[rand.IntN(len(l.clients))]
}

// sent notes a packet that has to come to addr, and returns its payload.
func (l *ledger) sent(from, to *Client, addr netip.Addr) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	l.r.Sent++
	l.pending[l.number] = flight{time.Now(), from, to, addr}
	return binary.BigEndian.AppendUint64(slices.Clone(magic), l.number)
}

// arrived notes a packet that came to c.
func (l *ledger) arrived(c *Client, ip []byte) {
	err := Intact(ip)
	payload := Payload(ip)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || len(payload) != len(magic)+8 || !bytes.HasPrefix(payload, magic) {
		l.r.Corrupt++
		return
	}
	number := binary.BigEndian.Uint64(payload[len(magic):])
	f, pending := l.pending[number]
	switch {
	case !pending:
		l.r.Duplicate++
		return
	case f.addr != c.Lease.Addr || Dst(ip) != c.Lease.Addr:
		l.r.Misrouted++
	}
	delete(l.pending, number)
	l.r.Received++
	l.latency.add(time.Since(f.sent))
}

// drain waits until nothing is under way to clients that are there.
func (l *ledger) drain(ctx context.Context, limit time.Duration) {
	end := time.Now().Add(limit)
	for ctx.Err() == nil && time.Now().Before(end) && l.result().Lost > 0 {
		time.Sleep(10 * time.Millisecond)
	}
}

// result sums up what happened so far.
func (l *ledger) result() Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.r
	for _, f := range l.pending {
		if l.there(f.from) && l.there(f.to) {
			r.Lost++
		} else {
			r.Orphaned++
		}
	}
	r.P50, r.P99, r.Max = milliseconds(l.latency.percentile(50)), milliseconds(l.latency.percentile(99)), milliseconds(l.latency.max)
	return r
}

// there tells whether c has not left. The caller holds mu.
func (l *ledger) there(c *Client) bool {
	_, there := l.at[c]
	return there
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
