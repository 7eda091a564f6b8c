package l2port

import (
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ferry/internal/l2port/ether"
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
	// overhead is what the system counts beside the bytes of a datagram.
	overhead = 1 << 10
	// oneFrame is the room for a datagram: whatever a card without offloads sends, and then some.
	oneFrame = 64<<10 + 1<<10
)

// A switchboard makes a connection for each sender of a socket of datagrams. A goroutine reads the socket; Close waits for it.
type switchboard struct {
	socket  *net.UnixConn
	raw     syscall.RawConn // of socket
	room    int             // bytes that wait in socket for all machines at most
	arrive  chan net.Conn   // sent to by the goroutine, which closes it when it ends; when it is full the machine has to speak again
	reading sync.WaitGroup
	once    sync.Once

	try func(fd uintptr) bool // trySend, bound once

	mu       sync.Mutex       // guards what follows
	lines    map[string]*line // by the path of the sender
	to       *line            // of what is being sent
	datagram []byte
	sent     bool
}

func newSwitchboard(socket *net.UnixConn) (*switchboard, error) {
	_, _ = socket.SetWriteBuffer(sendBytes), socket.SetReadBuffer(receiveBytes) // as far as the system lets us
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	room := sendBytes
	if err := raw.Control(func(fd uintptr) { room, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) }); err != nil {
		return nil, err
	}
	s := &switchboard{socket: socket, raw: raw, room: room, arrive: make(chan net.Conn, maxArrivals), lines: map[string]*line{}}
	s.try = s.trySend
	s.reading.Go(s.read)
	return s, err
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
	s.mu.Unlock()
	if l != nil && greeting { // it was started anew
		_ = l.Close()
		l = nil
	}
	if l == nil {
		if len(s.arrive) == cap(s.arrive) {
			return
		}
		l = &line{s: s, far: from, at: &unix.SockaddrUnix{Name: from.Name}, inbox: make(chan *[]byte, maxInbox), done: make(chan struct{})}
		s.mu.Lock()
		s.lines[from.Name] = l
		s.mu.Unlock()
		s.arrive <- l // nobody else sends to it
		s.probe(l)
	}
	if !greeting {
		l.put(b)
	}
}

// nobody is a frame that no card takes: to the gateway's own MAC, of a type for experiments (IEEE 802, clause 9.2.3), as short as frames can be.
var nobody = append(slices.Concat(ether.Gateway[:], ether.Gateway[:], []byte{0x88, 0xb5}), make([]byte, 60-ether.HeaderLen)...)

// probe ends the lines of machines that are gone, which nothing tells but that nothing can be sent to them. One that is started anew has another path, and
// should find its address free.
func (s *switchboard) probe(fresh *line) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.lines))
	s.mu.Unlock()
	for _, l := range all {
		if l == fresh || s.send(l, nobody) {
			continue
		}
		s.mu.Lock()
		gone := l.gone
		s.mu.Unlock()
		if gone != nil {
			_ = l.Close()
		}
	}
}

// send writes a datagram to the machine of l, unless too much waits there already, and tells whether it did. It never waits: what waits for
// all machines together is bounded by the one socket, so who waited for a halted one would wait with all others.
//
// Linux says how much waits in all (SO_MEMINFO) and not for whom. So l is charged with what was sent to it, but never with more than what
// waits in all and is not charged to others that are over their share: those are sent nothing, and what waits for them does not change.
func (s *switchboard) send(l *line, b []byte) (sent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to, s.datagram, s.sent = l, b, false
	if err := s.raw.Write(s.try); err != nil {
		l.gone = err
	}
	s.to, s.datagram = nil, nil
	return s.sent
}

// trySend sends s.datagram to s.to. It returns true: there is nothing to wait for. The caller holds mu.
func (s *switchboard) trySend(fd uintptr) bool {
	l := s.to
	waits, err := waiting(fd)
	if err != nil {
		l.gone = err
		return true
	}
	share := s.room / (len(s.lines) + 1) // all may be halted, and one more still has room
	for _, other := range s.lines {
		if other != l && other.charged > share {
			waits -= other.charged
		}
	}
	if l.charged = min(l.charged, max(waits, 0)); l.charged > share {
		return true
	}
	err = unix.Sendto(int(fd), s.datagram, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, l.at)
	switch s.sent = err == nil; {
	case s.sent:
		l.charged += 2*len(s.datagram) + overhead
	case err != unix.EAGAIN && err != unix.ENOBUFS && err != unix.EINTR:
		l.gone = err
	}
	return true
}

// waiting returns how many bytes of a socket wait to be read by others, as the system counts them. (SIOCOUTQ says the same, and is an ioctl, which
// this process may not call any more.)
func waiting(fd uintptr) (int, error) {
	const written = 2            // SK_MEMINFO_WMEM_ALLOC
	var info [written + 1]uint32 // the beginning of what there is
	n := uint32(unsafe.Sizeof(info))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0); errno != 0 {
		return 0, errno
	}
	return int(info[written]), nil
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
	at    unix.Sockaddr // the same
	inbox chan *[]byte  // sent to by the goroutine of s, which drops what does not fit
	done  chan struct{} // closed by Close
	once  sync.Once
	lost  atomic.Uint64 // datagrams that there was no room for, both ways

	// Guarded by s.mu:
	charged int   // bytes that may wait for the machine, and no more do
	gone    error // why nothing can be sent
}

// inboxes has the memory of datagrams that wait. One get (line.put), one put (line.Read).
var inboxes = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// put lets a datagram wait, if there is room.
func (l *line) put(b []byte) {
	if len(l.inbox) == cap(l.inbox) {
		l.lost.Add(1)
		return
	}
	k := inboxes.Get().(*[]byte)
	*k = append((*k)[:0], b...)
	l.inbox <- k // nobody else sends to it
}

// Read implements net.Conn.
func (l *line) Read(b []byte) (int, error) {
	select {
	case k := <-l.inbox:
		n := copy(b, *k)
		inboxes.Put(k)
		return n, nil
	case <-l.done:
		return 0, io.EOF
	}
}

// Write implements net.Conn. A datagram for a machine that does not read is lost, as on an Ethernet.
func (l *line) Write(b []byte) (int, error) {
	if !l.s.send(l, b) {
		l.s.mu.Lock()
		err := l.gone
		l.s.mu.Unlock()
		if err != nil {
			return 0, err
		}
		l.lost.Add(1)
	}
	return len(b), nil
}

// Lost returns how many datagrams there was no room for.
func (l *line) Lost() uint64 { return l.lost.Load() }

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
