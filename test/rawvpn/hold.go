package rawvpn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// HoldConfig says what Hold does.
type HoldConfig struct {
	Server    string
	Clients   int
	Jitter    time.Duration // a client whose connection ended comes back after a random time of 1 s up to this
	Keepalive time.Duration
	Joined    func() // called when all have joined for the first time; may be nil
}

// Held is what Hold has seen.
type Held struct {
	Clients int `json:"clients"`
	Lost    int `json:"lost"`    // connections that ended
	Refused int `json:"refused"` // attempts that got no address
	Back    int `json:"back"`    // times that a client got its address again
	Moved   int `json:"moved"`   // times that it got another one
	Doubles int `json:"double_addresses"`
}

// Hold joins with many clients, which then do nothing but keep their leases: when a connection ends, its
// client comes back with its token, as often as it takes. It ends with ctx.
func Hold(ctx context.Context, c HoldConfig) (Held, error) {
	h := &holder{c: c, owners: map[netip.Addr]int{}}
	h.r.Clients = c.Clients
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all, joining sync.WaitGroup
	slots := make(chan struct{}, joiners)
	for i := range c.Clients {
		joining.Add(1)
		all.Go(func() {
			slots <- struct{}{}
			client, err := h.join(ctx, i, Ask{Features: All})
			<-slots
			joining.Done()
			if err != nil {
				h.fail(fmt.Errorf("join: %w", err))
				cancel()
				return
			}
			h.stay(ctx, i, client)
		})
	}
	joining.Wait()
	if ctx.Err() == nil && c.Joined != nil {
		c.Joined()
	}
	all.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.r, h.err
}

// holder is a run of Hold.
type holder struct {
	c HoldConfig

	mu     sync.Mutex // guards what follows
	r      Held
	err    error              // the first one of a client that could not join at the start
	owners map[netip.Addr]int // client by address
}

func (h *holder) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
}

func (h *holder) count(f func(r *Held)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.r)
}

// join connects client i.
func (h *holder) join(ctx context.Context, i int, a Ask) (*Client, error) {
	c, err := Dial(ctx, h.c.Server)
	if err != nil {
		return nil, err
	}
	c.Timeout = 30 * time.Second
	if err := c.Join(a); err != nil {
		_ = c.Close()
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if other, there := h.owners[c.Lease.Addr]; there && other != i {
		h.r.Doubles++
	}
	h.owners[c.Lease.Addr] = i
	return c, nil
}

// stay keeps client i connected until ctx is done.
func (h *holder) stay(ctx context.Context, i int, c *Client) {
	for {
		h.listen(ctx, c)
		if ctx.Err() != nil {
			return
		}
		h.count(func(r *Held) { r.Lost++ })
		before := c.Lease
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second + rand.N(max(h.c.Jitter-time.Second, 1))):
			}
			var err error
			c, err = h.join(ctx, i, Ask{Features: All, Hint: before.Addr, Resume: before.Addr, Token: before.Token})
			if err == nil {
				break
			}
			h.count(func(r *Held) { r.Refused++ })
		}
		h.count(func(r *Held) {
			if c.Lease.Addr == before.Addr {
				r.Back++
			} else {
				r.Moved++
			}
		})
	}
}

// listen sends keepalives and reads until the connection ends or ctx is done.
func (h *holder) listen(ctx context.Context, c *Client) {
	var sending sync.WaitGroup
	ended := make(chan struct{})
	sending.Go(func() {
		phase := time.After(rand.N(h.c.Keepalive))
		for {
			select {
			case <-ctx.Done():
				_ = c.Close()
				return
			case <-ended:
				return
			case <-phase:
				phase = time.After(h.c.Keepalive)
				_ = c.Keepalive()
			}
		}
	})
	c.Timeout = 2*h.c.Keepalive + 10*time.Second // the echo of a keepalive comes at the latest
	for {
		if _, err := c.ReadItem(); err != nil {
			break
		}
	}
	_ = c.Close()
	close(ended)
	sending.Wait()
}
