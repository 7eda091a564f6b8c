package router

import (
	"net/netip"
	"sync/atomic"
)

// A Sender takes runs. Queue is the one in front of a peer; the exit is another.
type Sender interface {
	// Send takes a run: data frames, or bare packets where the port wants them, back to back. It
	// never waits and keeps nothing of the run after it returned. It returns how many packets it
	// did not take, and why.
	Send(run []byte) (dropped int, why Reason)
}

// Caps are what a port can receive.
type Caps struct {
	Super bool // data frames with super-packets and partial checksums; else bare IPv4 packets
	USO   bool // with Super: super-packets of UDP
	// Exit is set for the port to this machine's network, which takes nothing but data frames.
	Exit bool
	// MTU is the longest packet in bytes that is not refused or fragmented; 0: no limit here.
	MTU int
}

// A Port is a place where packets come from and go to.
type Port struct {
	ID uint64 // of the connection; for the exit 0
	// Guest is set for a client that has proven nothing, beside others that have: the two kinds do not
	// reach each other. It is set before an address is bound.
	Guest bool
	Counters

	caps atomic.Pointer[Caps]
	out  Sender
	addr atomic.Uint32 // the pool address that the peer holds; 0: none
}

// NewPort returns a port that sends through out.
func NewPort(id uint64, caps Caps, out Sender) *Port {
	p := &Port{ID: id, out: out}
	p.SetCaps(caps)
	return p
}

// Caps returns what the port can receive.
func (p *Port) Caps() *Caps { return p.caps.Load() }

// SetCaps says what the port can receive from now on.
func (p *Port) SetCaps(c Caps) { p.caps.Store(&c) }

// SendBy replaces what the port sends through. It is called before an address is bound.
func (p *Port) SendBy(out Sender) { p.out = out }

// Addr returns the address that the peer behind the port holds; it is invalid when there is none.
func (p *Port) Addr() netip.Addr {
	if a := p.addr.Load(); a != 0 {
		return toAddr(a)
	}
	return netip.Addr{}
}
