package l2port

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// magic is the first datagram of vfkit and krunkit, which is no frame.
	magic = "VFKT"
	// maxArrivals is how many machines wait to be accepted.
	maxArrivals = 16
	// maxInbox is how many frames of one machine wait to be read.
	maxInbox = 256
	// socketBytes is what the socket of all machines holds, each way, as gvproxy has it.
	sendBytes, receiveBytes = 1 << 20, 4 << 20
	// oneFrame is the room for a datagram: whatever a card without offloads sends, and then some.
	oneFrame = 64<<10 + 1<<10
)

// A switchboard makes a connection for each sender of a socket of datagrams. A goroutine reads the socket; Close waits for it.
type switchboard struct {
	socket  *net.UnixConn
	arrive  chan net.Conn // sent to by the goroutine, which closes it when it ends; when it is full the machine has to speak again
	reading sync.WaitGroup
	once    sync.Once

	mu    sync.Mutex
	lines map[string]*line // by the path of the sender
}

func newSwitchboard(socket *net.UnixConn) *switchboard {
	_, _ = socket.SetWriteBuffer(sendBytes), socket.SetReadBuffer(receiveBytes) // as far as the system lets us
	s := &switchboard{socket: socket, arrive: make(chan net.Conn, maxArrivals), lines: map[string]*line{}}
	s.reading.Go(s.read)
	return s
}

// read hands datagrams to the lines of their senders until the socket is closed.
func (s *switchboard) read() {
	defer close(s.arrive)
	buf := make([]byte, oneFrame)
	for {
		n, from, err := s.socket.ReadFromUnix(buf)
		switch {
		case err != nil: // the socket was closed
			return
		case from == nil || from.Name == "":
			continue // who has no path can not be answered: it has to bind its socket
		}
		s.take(buf[:n], from)
	}
}

func (s *switchboard) take(b []byte, from *net.UnixAddr) {
	greeting := string(b) == magic
	s.mu.Lock()
	l := s.lines[from.Name]
	if l != nil && greeting { // it was started anew
		delete(s.lines, from.Name)
	}
	s.mu.Unlock()
	if l != nil && greeting {
		_ = l.Close()
		l = nil
	}
	if l == nil {
		l = &line{s: s, far: from, inbox: make(chan []byte, maxInbox), done: make(chan struct{})}
		if len(s.arrive) == cap(s.arrive) {
			return
		}
		s.mu.Lock()
		s.lines[from.Name] = l
		s.mu.Unlock()
		s.arrive <- l // nobody else sends to it
	}
	if !greeting {
		l.put(b)
	}
}

// Accept implements source.
func (s *switchboard) Accept() (net.Conn, error) {
	if l, ok := <-s.arrive; ok {
		return l, nil
	}
	return nil, net.ErrClosed
}

// Close implements source.
func (s *switchboard) Close() error {
	s.once.Do(func() {
		path := s.socket.LocalAddr().String()
		_ = s.socket.Close()
		_ = os.Remove(path) // package net does that for listeners only
	})
	s.reading.Wait()
	return nil
}

// A line is the connection of one sender. Each Read returns one datagram.
type line struct {
	s     *switchboard
	far   *net.UnixAddr
	inbox chan []byte   // sent to by the goroutine of s, which drops what does not fit
	done  chan struct{} // closed by Close
	once  sync.Once
}

// inboxes has the memory of datagrams that wait. One get (line.put), one put (line.Read).
var inboxes = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// put lets a datagram wait, if there is room.
func (l *line) put(b []byte) {
	if len(l.inbox) == cap(l.inbox) {
		return
	}
	k := *inboxes.Get().(*[]byte)
	l.inbox <- append(k[:0], b...) // nobody else sends to it
}

// Read implements net.Conn.
func (l *line) Read(b []byte) (int, error) {
	select {
	case k := <-l.inbox:
		n := copy(b, k)
		inboxes.Put(&k)
		return n, nil
	case <-l.done:
		return 0, io.EOF
	}
}

// Write implements net.Conn.
func (l *line) Write(b []byte) (int, error) { return l.s.socket.WriteToUnix(b, l.far) }

// Close implements net.Conn.
func (l *line) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		if l.s.lines[l.far.Name] == l {
			delete(l.s.lines, l.far.Name)
		}
	})
	return nil
}

// LocalAddr implements net.Conn.
func (l *line) LocalAddr() net.Addr { return l.s.socket.LocalAddr() }

// RemoteAddr implements net.Conn.
func (l *line) RemoteAddr() net.Addr { return l.far }

// SetDeadline implements net.Conn. Nobody sets one.
func (l *line) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.Conn.
func (l *line) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.Conn.
func (l *line) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// pipes are a connection of two files.
type pipes struct{ in, out *os.File }

// Read implements net.Conn.
func (p *pipes) Read(b []byte) (int, error) { return p.in.Read(b) }

// Write implements net.Conn.
func (p *pipes) Write(b []byte) (int, error) { return p.out.Write(b) }

// Close implements net.Conn.
func (p *pipes) Close() error { return errors.Join(p.in.Close(), p.out.Close()) }

// LocalAddr implements net.Conn.
func (p *pipes) LocalAddr() net.Addr { return Addr{"stdio", "stdin"} }

// RemoteAddr implements net.Conn.
func (p *pipes) RemoteAddr() net.Addr { return Addr{"stdio", "stdout"} }

// SetDeadline implements net.Conn.
func (p *pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetDeadline(t), p.out.SetDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (p *pipes) SetReadDeadline(t time.Time) error { return p.in.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (p *pipes) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }
