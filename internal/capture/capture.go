// Package capture copies packets that pass the router of a gateway, as tcpdump does those of an interface:
//
//	router.Forwarder --Pass--> filter --> buffer of a Capture --> Run --> a file of package pcap
//	(any goroutine)                       copied under a lock      (one goroutine)
//
// The rules are:
//
//   - While there is no capture, nothing is called: the router has no Tap.
//   - What is seen was let pass: each packet once, before it is sent, whoever it is for. What was refused is counted by the router, and not seen here.
//   - A packet is seen as it is carried: a super-packet of up to 64 KiB as one, which on a wire would be many. A checksum that was left to
//     the hardware is completed in the copy, where all of the packet was captured.
//   - Memory is bounded: two buffers for each capture, of which there are a few. What finds no room is dropped from the capture, and counted; the
//     packet itself goes its way.
//   - No lock is held while something is written.
package capture

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ferry/internal/capture/filter"
	"ferry/internal/capture/pcap"
	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// MaxCaptures is how many may run at once.
const MaxCaptures = 4

// bufferSize is how much of a capture may wait, in bytes; there are two buffers, one that is filled while the other is written.
const bufferSize = 4 << 20

// Errors of a Set.
var (
	ErrFull    = fmt.Errorf("there are %d captures already: end one", MaxCaptures)
	ErrUnknown = errors.New("there is no such capture")
	ErrClosed  = errors.New("the gateway is ending")
)

// Options say what is captured, and when it ends. The zero value captures everything until End.
type Options struct {
	Filter  filter.Filter
	Peers   []netip.Addr  // addresses of clients that packets come from or go to; none: whoever
	Snaplen int           // bytes of each packet; 0: all
	Packets uint64        // that are captured; 0: no limit
	Bytes   uint64        // that the file may have; 0: no limit
	Time    time.Duration // that the capture may take; 0: no limit
}

// Stats is what a capture has seen so far.
type Stats struct {
	Packets uint64 // captured
	Dropped uint64 // that matched, and found no room
}

// A Set has the captures of a gateway.
type Set struct {
	taps *router.Taps

	mu      sync.Mutex // guards what follows
	all     captures   // replaced, never changed: Pass reads it
	last    uint64     // number
	over    bool
	running sync.WaitGroup
}

// NewSet returns a Set that looks by taps.
func NewSet(taps *router.Taps) *Set { return &Set{taps: taps} }

// Start begins a capture, which its caller has to Run.
func (s *Set) Start(o Options) (*Capture, error) {
	if o.Snaplen <= 0 || o.Snaplen > pcap.MaxSnaplen {
		o.Snaplen = pcap.MaxSnaplen
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
		return nil, ErrClosed
	case len(s.all) >= MaxCaptures:
		return nil, ErrFull
	}
	s.last++
	c := &Capture{of: s, number: s.last, o: o, size: pcap.HeaderLen, more: make(chan struct{}, 1), fill: newBuffer(), spare: newBuffer()}
	s.running.Add(1)
	s.set(append(slices.Clone(s.all), c))
	return c, nil
}

// set replaces the captures. The caller holds mu.
func (s *Set) set(all captures) {
	if s.all = all; len(all) == 0 {
		s.taps.Set(nil)
		return
	}
	s.taps.Set(all)
}

func (s *Set) remove(c *Capture) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(slices.DeleteFunc(slices.Clone(s.all), func(other *Capture) bool { return other == c }))
}

// End ends the capture that has a number. What it has is still written.
func (s *Set) End(number uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		if c.number == number {
			c.End()
			return nil
		}
	}
	return ErrUnknown
}

// Close ends all captures, and waits for their Run. It may be called more than once.
func (s *Set) Close() {
	s.mu.Lock()
	s.over = true
	for _, c := range s.all {
		c.End()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// captures implement router.Tap.
type captures []*Capture

func (all captures) Pass(from, to *router.Port, run []byte) {
	now := time.Now()
	for _, c := range all {
		if c.about(from) || c.about(to) {
			c.pass(now, run)
		}
	}
}

// A Capture is one.
type Capture struct {
	of     *Set
	number uint64
	o      Options
	more   chan struct{} // capacity 1: there is something to be written, or the end

	mu          sync.Mutex // guards what follows
	fill, spare *buffer
	size        uint64 // of the file so far
	stats       Stats
	over        bool
}

// A buffer has records that are to be written.
type buffer struct {
	b     []byte
	fixes []fix
}

// A fix is a checksum that has to be completed before its record is written.
type fix struct {
	at, end int // of the packet in the buffer
	offload packet.Offload
}

func newBuffer() *buffer { return &buffer{b: make([]byte, 0, bufferSize)} } // whose pages take no memory until they are used

// Number is by which the capture can be ended.
func (c *Capture) Number() uint64 { return c.number }

// Stats returns the counts so far.
func (c *Capture) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// End ends the capture. What it has is still written. It may be called more than once.
func (c *Capture) End() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.wake()
}

func (c *Capture) wake() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// about tells whether a port is that of a client who was asked for.
func (c *Capture) about(p *router.Port) bool {
	return len(c.o.Peers) == 0 || slices.Contains(c.o.Peers, p.Addr())
}

// pass takes the packets of a run that match.
func (c *Capture) pass(now time.Time, run []byte) {
	for len(run) > 0 {
		n := proto.ItemLen(run)
		item, o := run[:n], packet.Offload{}
		if run = run[n:]; proto.IsFrame(item) {
			o, _ = packet.ConsumeOffload(item[proto.FrameHeaderLen:]) // that the router has checked
			item = item[proto.DataHeaderLen:]
		}
		if c.o.Filter.Match(packet.IPv4(item)) {
			c.put(now, o, item)
		}
	}
}

// put copies a packet, if there is room.
func (c *Capture) put(now time.Time, o packet.Offload, ip []byte) {
	n := min(len(ip), c.o.Snaplen)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	f := c.fill
	record := pcap.RecordHeaderLen + n
	switch {
	case c.o.Bytes > 0 && c.size+uint64(record) > c.o.Bytes:
		c.over = true
	case len(f.b)+record > bufferSize:
		c.stats.Dropped++
		return
	default:
		at := len(f.b) + pcap.RecordHeaderLen
		f.b = pcap.IP.AppendRecord(f.b, now, ip[:n], len(ip))
		if n == len(ip) && o.Flags&packet.NeedsCsum != 0 {
			f.fixes = append(f.fixes, fix{at, at + n, o})
		}
		c.size += uint64(record)
		c.stats.Packets++
		c.over = c.stats.Packets == c.o.Packets
	}
	c.wake()
}

// Run writes the file, header first, until the capture is over: by End, by a limit of its Options, when ctx is done or write fails. Each call of write is
// whole records. It returns what write has.
func (c *Capture) Run(ctx context.Context, write func([]byte) error) error {
	defer c.of.running.Done()
	defer c.of.remove(c)
	defer c.End()
	if c.o.Time > 0 {
		late := time.AfterFunc(c.o.Time, c.End)
		defer late.Stop()
	}
	if err := write(pcap.IP.AppendHeader(nil, c.o.Snaplen)); err != nil {
		return err
	}
	for {
		select {
		case <-c.more:
		case <-ctx.Done():
			return nil
		}
		b, over := c.swap()
		for _, f := range b.fixes {
			packet.CompleteChecksum(f.offload, b.b[f.at:f.end])
		}
		if len(b.b) > 0 {
			if err := write(b.b); err != nil {
				return err
			}
		}
		if over {
			return nil
		}
	}
}

// swap returns what there is to be written, until the next call.
func (c *Capture) swap() (b *buffer, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b = c.fill
	c.fill, c.spare = c.spare, b
	c.fill.b, c.fill.fixes = c.fill.b[:0], c.fill.fixes[:0]
	return b, c.over
}
