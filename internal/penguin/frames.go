package penguin

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/buffer"
	"ferry/internal/penguin/wire"
	"ferry/internal/relay"
)

// readFrames calls each with every frame that comes by a connection until its end, which is no error. A frame is valid during the call. Nothing is held while
// nothing comes, but what a frame that is not whole yet has.
func readFrames(conn syscall.Conn, each func([]byte) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	in := relay.NewReader(raw, relay.StreamSize)
	var rest []byte
	for {
		b, err := in.Next()
		if err != nil {
			return err
		}
		if len(b) == 0 {
			in.Release()
			if len(rest) > 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		rest, err = eachFrame(rest, b, each)
		in.Release()
		if err != nil {
			return err
		}
	}
}

// eachFrame calls each with the frames that rest and b have behind each other, and returns what is left.
func eachFrame(rest, b []byte, each func([]byte) error) ([]byte, error) {
	if len(rest) > 0 {
		rest = append(rest, b...)
		b = rest
	}
	for {
		frame, n := wire.ConsumeFrame(b)
		if n == 0 {
			break
		}
		if err := each(frame); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	if len(b) == 0 {
		return nil, nil
	}
	return append(rest[:0], b...), nil // b is a copy already, or the end of rest
}

// maxPending is how many frames wait for a writer that the socket does not keep up with.
const maxPending = 32

// A frameWriter writes frames to a connection and never waits: those for which there is no room are dropped, as on a line. What the socket has taken in part is
// finished by a goroutine, which is there for only so long.
type frameWriter struct {
	dropped *atomic.Uint64
	budget  *buffer.Budget // of what waits; nil: no other bound than maxPending
	work    sync.WaitGroup

	mu      sync.Mutex // guards what follows; held over system calls that do not wait
	raw     syscall.RawConn
	conn    net.Conn // nil: there is none yet
	pending [][]byte // with their lengths
	waiting int      // bytes of pending, and of what the goroutine writes
	busy    bool     // the goroutine is there
	over    bool
	send    func(fd uintptr) bool // sendLocked
	b       []byte                // what it sends
	n       int                   // what it has sent
}

// attach begins to write to a connection: first what has waited for it. false: it was closed meanwhile.
func (w *frameWriter) attach(conn stream) bool {
	raw, err := conn.SyscallConn()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || err != nil {
		return false
	}
	w.conn, w.raw, w.send = conn, raw, w.sendLocked
	w.startLocked()
	return true
}

func (w *frameWriter) startLocked() {
	if len(w.pending) > 0 && !w.busy && !w.over {
		w.busy = true
		w.work.Go(w.finish)
	}
}

// write writes a frame, of at most 65535 bytes.
func (w *frameWriter) write(payload []byte) {
	block := relay.Borrow()
	defer relay.GiveBack(block)
	b := wire.AppendFrame(block[:0], payload)
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	if w.conn != nil && !w.busy {
		n = w.tryLocked(b)
	}
	switch {
	case n == len(b):
		return
	case w.over, n < 0, n == 0 && (len(w.pending) >= maxPending || w.waiting+len(b) > w.budget.Share()):
		w.dropped.Add(1)
		return
	}
	w.pending = append(w.pending, append([]byte(nil), b[n:]...))
	w.countLocked(len(b) - n)
	if w.conn != nil {
		w.startLocked()
	}
}

// countLocked counts n bytes more that wait.
func (w *frameWriter) countLocked(n int) {
	w.waiting += n
	w.budget.Add(n)
}

// tryLocked writes what the socket takes at once; less than 0: it takes nothing any more.
func (w *frameWriter) tryLocked(b []byte) int {
	w.b = b
	if w.raw.Write(w.send) != nil {
		w.n = -1
	}
	w.b = nil
	return w.n
}

// sendLocked writes b, and notes in n how much of it.
func (w *frameWriter) sendLocked(fd uintptr) bool {
	for {
		var err error
		w.n, err = unix.SendmsgN(int(fd), w.b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			w.n = 0
		case err != nil:
			w.n = -1
		}
		return true
	}
}

// finish writes what is pending.
func (w *frameWriter) finish() {
	for {
		w.mu.Lock()
		if len(w.pending) == 0 || w.over {
			w.busy, w.pending = false, nil
			w.countLocked(-w.waiting)
			w.mu.Unlock()
			return
		}
		b, conn := w.pending[0], w.conn
		w.pending = w.pending[1:]
		w.mu.Unlock()
		_, err := conn.Write(b)
		w.mu.Lock()
		w.countLocked(-len(b))
		w.over = w.over || err != nil
		w.mu.Unlock()
	}
}

// close ends the writing, and closes the connection.
func (w *frameWriter) close() {
	w.mu.Lock()
	w.over = true
	conn := w.conn
	if !w.busy {
		w.pending = nil
		w.countLocked(-w.waiting)
	}
	w.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
	w.work.Wait()
}
