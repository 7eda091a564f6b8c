package datagram

import (
	"crypto/rand"
	"time"
)

// A path is where the other end is, and whether that is proven: it has answered from there what was asked there.
//
//	proven ──a newer packet from elsewhere──▶ not proven: a challenge, and no more bytes than come ──response──▶ proven
//	   ^                                          |
//	   +───a newer packet from where it was───────+
type path struct {
	at     Addr
	proven bool
	credit int  // bytes that may go there while it is not proven
	last   Addr // the last one that was proven

	challenge [8]byte
	asked     time.Time
	ask       bool // the challenge is to be sent
	response  [8]byte
	respond   bool // the response is to be sent
}

// heard notes a genuine packet. It tells whether the other end has moved.
func (p *path) heard(from Addr, size int, newest bool, now time.Time, patience time.Duration) (moved bool) {
	if from.Remote == p.at.Remote {
		if newest {
			p.at = from // where it spoke to
		}
		if !p.proven {
			p.credit += size
			p.ask = p.ask || now.Sub(p.asked) > patience
		}
		return false
	}
	if !newest {
		return false
	}
	p.at, p.credit = from, size
	if p.proven = from.Remote == p.last.Remote; !p.proven {
		_, _ = rand.Read(p.challenge[:]) // never fails
		p.ask = true
	}
	return true
}

// prove notes that the address is proven.
func (p *path) prove() { p.proven, p.last, p.ask = true, p.at, false }

// answered takes a response.
func (p *path) answered(b []byte) {
	if !p.proven && [8]byte(b) == p.challenge {
		p.prove()
	}
}

// room returns how many of n bytes may be sent.
func (p *path) room(n int) int {
	if p.proven {
		return n
	}
	return min(n, p.credit)
}

// spend tells whether n bytes may be sent, and counts them.
func (p *path) spend(n int) bool {
	if p.proven {
		return true
	}
	if n > p.credit {
		return false
	}
	p.credit -= n
	return true
}

// places are where a Prover was told that a gateway's connection is.
type places struct {
	home  Addr
	other Addr // where it seems to have moved to; zero: nowhere
	left  bool // it is nowhere any more
}

// moved tells the transport that the other end seems to be elsewhere, or is back. The caller holds mu.
func (l *Link) moved() {
	p := &l.places
	if l.isClient || p.left {
		return
	}
	if p.other != (Addr{}) {
		l.e.left(p.other)
		p.other = Addr{}
	}
	if !l.path.proven {
		p.other = l.path.at
		l.e.come(p.other)
	}
}

// settled tells the transport that the other end is where it seemed to be. The caller holds mu.
func (l *Link) settled() {
	p := &l.places
	if p.other == (Addr{}) {
		return
	}
	l.e.proven(p.other)
	l.e.left(p.home)
	p.home, p.other = p.other, Addr{}
}

// leave tells the transport that the connection is nowhere any more.
func (l *Link) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.places
	p.left = true
	l.e.left(p.home)
	if p.other != (Addr{}) {
		l.e.left(p.other)
		p.other = Addr{}
	}
}
