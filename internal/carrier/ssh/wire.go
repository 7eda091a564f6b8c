package ssh

import (
	"errors"
	"net"
	"sync"
)

// A wire is the connection below SSH. It remembers how it ended, which the library does not tell, and on a
// gateway has a guard. The library reads with one goroutine at a time.
type wire struct {
	net.Conn
	guard *guard // nil: none

	mu   sync.Mutex
	last error // of Read; the first one
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err == nil && w.guard != nil {
		err = w.guard.read(b[:n])
	}
	if err == nil {
		return n, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.last = err
	}
	return 0, err
}

func (w *wire) Write(b []byte) (int, error) {
	if w.guard != nil {
		w.guard.wrote(b) // before: the answer may be there at once
	}
	return w.Conn.Write(b)
}

// fault returns the first error of Read; nil: none yet.
func (w *wire) fault() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// errTalk ends the connection of a stranger who says what no client of ours would.
var errTalk = errors.New("not a client of ours: too much, or other things than a key exchange, before a key was proven")

const (
	versionPrefix = "SSH-2.0-"
	maxVersion    = 255     // bytes of the first line (RFC 4253, section 4.2)
	maxClear      = 8 << 10 // bytes of a key exchange; an OpenSSH client sends 3,000

	newKeys = 21 // SSH_MSG_NEWKEYS: what follows is sealed

	// shortest is how many bytes a sealed packet has at least: length 4, length of padding 1, type 1,
	// padding 4, tag 16. A request with a key has 107 bytes where that has its type.
	shortest   = 26
	withKey    = shortest - 1 + 107
	maxPackets = 16 // that the library takes in before it waits for who uses them
)

// A guard watches what a stranger says to a gateway until a key is proven. The library would
//
//   - allocate 256 KiB for a packet that is only announced, by four bytes of anybody;
//   - read a thousand lines, one byte at a time, before the first that is SSH's;
//   - exchange keys over and over;
//   - keep two goroutines for ever when it gives up with more packets read ahead than it has places for: the
//     one that reads waits for a place, and nobody comes to look.
//
// So a stranger may send the version, 8 KiB in the clear, and then no more than a client needs to log in. How many
// packets that is can not be seen, for they are sealed; but they are no shorter than 26 bytes, and each answer
// stands for one that was used up:
//
//	bytes sealed  <  26 × (17 + answers)  +  106 × keys that were asked about
//
// With one answer to nothing (EXT_INFO) and the packet at which the library gives up, at most 16 are left. A client
// of ours, and that of OpenSSH, sends 496 bytes where 651 may be sent.
//
// What it can not keep: who has paid for a key exchange may announce one sealed packet of 256 KiB, for which the
// library allocates before it has come. ctx ends that.
type guard struct {
	mu      sync.Mutex
	trusted bool // no bounds any more

	phase  phase
	n      int    // bytes of what phase is about
	length uint32 // of the packet
	kind   byte   // of the packet
	clear  int    // bytes that were not sealed
	ahead  int    // bytes that were sealed and may still come

	answering bool // we have sent newKeys
}

type phase uint8

// What the next byte belongs to: version ─▶ header ⇄ body ─▶ sealed.
const (
	version phase = iota
	header
	body
	sealed
)

func newGuard() *guard { return &guard{ahead: (maxPackets+1)*shortest - 1} }

// read looks at what has come.
func (g *guard) read(b []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, c := range b {
		if g.trusted {
			return nil
		}
		if g.phase == sealed {
			g.ahead -= len(b) - i
			break
		}
		if !g.next(c) {
			return errTalk
		}
	}
	if g.ahead < 0 {
		return errTalk
	}
	return nil
}

// next takes a byte that is not sealed, and tells whether it may be there.
func (g *guard) next(c byte) bool {
	if g.clear++; g.clear > maxClear {
		return false
	}
	g.n++
	switch g.phase {
	case version:
		switch {
		case g.n <= len(versionPrefix):
			return c == versionPrefix[g.n-1]
		case c == '\n':
			g.enter(header)
		}
		return g.n <= maxVersion
	case header:
		if g.length = g.length<<8 | uint32(c); g.n == 4 {
			g.enter(body)
			return g.length >= 2 && g.length <= maxClear
		}
	case body:
		if g.n == 2 { // behind the length of the padding
			g.kind = c
		}
		switch {
		case g.n < int(g.length):
		case g.kind == newKeys:
			g.enter(sealed)
		default:
			g.enter(header)
		}
	}
	return true
}

func (g *guard) enter(p phase) {
	g.phase, g.n = p, 0
	if p == header {
		g.length = 0
	}
}

// wrote looks at what is about to be sent: a packet, or the version.
func (g *guard) wrote(b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.answering {
		g.ahead += shortest
	}
	g.answering = g.answering || len(b) > 5 && b[5] == newKeys
}

// keyOffered is called for a packet that asks about a key.
func (g *guard) keyOffered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ahead += withKey - shortest
}

// trust ends the bounds: a key was proven.
func (g *guard) trust() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trusted = true
}
