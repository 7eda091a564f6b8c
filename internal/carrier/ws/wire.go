package ws

import (
	"encoding/binary"
	"net"
	"sync"
)

// A wire is the connection under a WebSocket. The library writes a frame in parts of 4 KiB; the wire puts them
// together, so that a message is one system call, and one TLS record as far as it fits into one. The library writes frames
// one at a time, which is all the order that is needed here.
type wire struct {
	net.Conn
	early []byte // came together with the answer to the request

	held *[holdSize]byte // nil: none is borrowed
	have int             // bytes in held
	left int             // bytes of the frame that the library has not written yet
}

const (
	// holdSize is the length of a frame with as much as carrier.Stream writes at once, sealed.
	holdSize       = 66 << 10
	maxFrameHeader = 2 + 8 + 4
)

// holdPool has the buffers of all wires. One get (Write), one put (flush).
var holdPool = sync.Pool{New: func() any { return new([holdSize]byte) }}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.early) > 0 {
		n := copy(b, w.early)
		w.early = w.early[n:]
		return n, nil
	}
	return w.Conn.Read(b)
}

func (w *wire) Write(b []byte) (int, error) {
	if w.left == 0 {
		w.left = frameLen(b)
	}
	w.left = max(w.left-len(b), 0)
	if w.have == 0 && w.left == 0 {
		return w.Conn.Write(b)
	}
	for n := 0; ; {
		if w.held == nil {
			w.held = holdPool.Get().(*[holdSize]byte)
		}
		part := copy(w.held[w.have:], b[n:])
		w.have += part
		n += part
		if n == len(b) && w.left > 0 && w.have < holdSize {
			return n, nil
		}
		if err := w.flush(); err != nil || n == len(b) {
			return n, err
		}
	}
}

// flush writes what is held.
func (w *wire) flush() error {
	_, err := w.Conn.Write(w.held[:w.have])
	holdPool.Put(w.held)
	w.held, w.have = nil, 0
	return err
}

// frameLen returns the length of the frame that begins with b: RFC 6455, section 5.2.
func frameLen(b []byte) int {
	if len(b) < 2 {
		return len(b)
	}
	n := 2 + int(b[1]>>7)*4
	switch short := b[1] & 0x7f; {
	case short < 126:
		return n + int(short)
	case short == 126 && len(b) >= 4:
		return n + 2 + int(binary.BigEndian.Uint16(b[2:]))
	case short == 127 && len(b) >= 10:
		return n + 8 + int(binary.BigEndian.Uint64(b[2:]))
	}
	return len(b)
}
