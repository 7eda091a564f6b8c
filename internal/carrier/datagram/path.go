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
