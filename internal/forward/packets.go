package forward

import (
	"container/list"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/relay"
)

// A packetDoor is where datagrams come in.
//
//	source --> socket --> flow of that source --> a socket of its own --> client
//	source <-- socket <---------------------------- reply ---------------/
type packetDoor struct {
	*Forward
	l *net.UDPConn

	mu     sync.Mutex // guards what follows
	all    map[flowKey]*flow
	oldest *list.List // of *flow: in front whose source was silent for longest
	over   bool
}

// A local is a control message that says which of this host's addresses a datagram was for (IP_PKTINFO, ip(7); IPV6_PKTINFO, ipv6(7)): sent along with a
// reply it makes that its source.
type local struct {
	b [maxLocal]byte
	n int
}

// maxLocal is the space that the longer of the two takes: struct in6_pktinfo has 20 bytes.
const maxLocal = unix.SizeofCmsghdr + 24

// A flowKey is what the datagrams of a flow share.
type flowKey struct {
	source netip.AddrPort
	local  local
}

// A flow is what one source sends, and the replies.
type flow struct {
	flowKey
	at   *list.Element
	far  net.Conn
	born time.Time
	last atomic.Int64  // when a datagram passed, in nanoseconds since 1970
	up   atomic.Uint64 // bytes to the client
	down atomic.Uint64 // bytes from the client
	try  func(fd uintptr) bool
	raw  syscall.RawConn // nil: far is no socket of the kernel
	b    []byte          // what try sends
}

func (f *Forward) listenUDP(e Entrance) error {
	l, err := f.c.Network.ListenPacket(f.ctx, e.address())
	if err != nil {
		return err
	}
	if err := askLocal(l); err != nil {
		return errors.Join(err, l.Close())
	}
	f.bound = e.at(addrPort(l.LocalAddr()).Port())
	f.door = &packetDoor{Forward: f, l: l, all: map[flowKey]*flow{}, oldest: list.New()}
	return nil
}

// askLocal asks the kernel to say which address a datagram was for. A socket has one family, and the option of the other fails.
func askLocal(l *net.UDPConn) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var v4, v6 error
	err = raw.Control(func(fd uintptr) {
		v4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		v6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err == nil && v4 != nil && v6 != nil {
		return errors.Join(v4, v6)
	}
	return err
}

func (d *packetDoor) live() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.all)
}

func (d *packetDoor) close() {
	d.mu.Lock()
	d.over = true
	for _, w := range d.all {
		_ = w.far.Close()
	}
	d.mu.Unlock()
	_ = d.l.Close()
}

// run hands on datagrams until the door is closed.
func (d *packetDoor) run() {
	var pause time.Duration
	b := new([1 << 16]byte) // more than a datagram can hold
	oob := make([]byte, 128)
	for {
		n, oobn, _, source, err := d.l.ReadMsgUDPAddrPort(b[:], oob)
		if err != nil {
			if !d.pause(&pause, err) {
				return
			}
			continue
		}
		pause = 0
		if !d.bound.allows(source.Addr().Unmap()) {
			d.refused.Add(1)
			continue
		}
		if w := d.flow(flowKey{source, parseLocal(oob[:oobn])}); w != nil {
			w.send(b[:n])
			w.up.Add(uint64(n))
			d.up.Add(uint64(n))
		}
	}
}

// parseLocal finds the message among those that came with a datagram. The device is left out: a reply may leave by another.
func parseLocal(oob []byte) (l local) {
	const head = unix.SizeofCmsghdr
	for len(oob) >= head {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return local{}
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) == unix.SizeofInet4Pktinfo:
			l.n = copy(l.b[:], oob[:min(len(oob), unix.CmsgSpace(len(data)))])
			clear(l.b[head:][:4]) // ipi_ifindex is first
			return l
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) == unix.SizeofInet6Pktinfo:
			l.n = copy(l.b[:], oob[:min(len(oob), unix.CmsgSpace(len(data)))])
			if !netip.AddrFrom16([16]byte(data)).IsLinkLocalUnicast() {
				clear(l.b[head+16:][:4]) // ipi6_ifindex is last
			}
		}
		oob = rest
	}
	return l
}

// flow returns the flow of a key, which is made if there is none; nil: the client can not be reached. One goroutine calls it.
func (d *packetDoor) flow(k flowKey) *flow {
	d.mu.Lock()
	w := d.all[k]
	if w != nil {
		d.oldest.MoveToBack(w.at)
	}
	d.mu.Unlock()
	if w != nil {
		return w
	}
	far, err := d.dial("udp")
	if err != nil {
		d.log.Debug("dial", "peer", k.source, "err", err)
		return nil
	}
	w = &flow{flowKey: k, far: far, born: time.Now()}
	if s, ok := far.(syscall.Conn); ok {
		if w.raw, err = s.SyscallConn(); err != nil {
			_ = far.Close()
			return nil
		}
		w.try = w.write
	}
	w.touch()
	if !d.add(w) {
		_ = far.Close()
		return nil
	}
	d.work.Go(func() {
		d.receive(w)
		d.remove(w)
	})
	return w
}

// add makes room for a flow.
func (d *packetDoor) add(w *flow) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return false
	}
	if len(d.all) >= d.c.Flows {
		first := d.oldest.Front().Value.(*flow)
		d.forget(first)
		_ = first.far.Close()
	}
	d.all[w.flowKey] = w
	w.at = d.oldest.PushBack(w)
	d.total.Add(1)
	return true
}

// forget takes a flow out of the table. The caller holds mu.
func (d *packetDoor) forget(w *flow) {
	if d.all[w.flowKey] == w {
		delete(d.all, w.flowKey)
		d.oldest.Remove(w.at)
	}
}

func (d *packetDoor) remove(w *flow) {
	d.mu.Lock()
	d.forget(w)
	d.mu.Unlock()
	_ = w.far.Close()
}

func (w *flow) touch() { w.last.Store(time.Now().UnixNano()) }

// send sends a datagram to the client. What does not go at once is lost, as UDP may be: the datagrams of others do not wait for it.
func (w *flow) send(b []byte) {
	w.touch()
	if w.raw == nil {
		if _, err := w.far.Write(b); err != nil { // that of an earlier one: see write
			_, _ = w.far.Write(b)
		}
		return
	}
	w.b = b
	_ = w.raw.Write(w.try)
	w.b = nil
}

// write sends b. An error that came for an earlier datagram is returned in the place of sending this one, once (udp(7)).
func (w *flow) write(fd uintptr) bool {
	for again := 0; again < 3; again++ {
		switch unix.Send(int(fd), w.b, unix.MSG_DONTWAIT) {
		case unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH:
		default:
			return true
		}
	}
	return true
}

// receive hands the source what the client replies, until nothing has passed for too long.
func (d *packetDoor) receive(w *flow) {
	quiet := func() time.Duration { return time.Since(time.Unix(0, w.last.Load())) }
	stop := relay.AfterQuiet(d.c.FlowIdle, quiet, func() { _ = w.far.Close() })
	defer stop()
	reply := &replies{d, w}
	if w.raw == nil {
		_, _ = w.far.(io.WriterTo).WriteTo(reply)
		return
	}
	r := relay.NewReader(w.raw)
	for {
		b, err := r.Next()
		switch {
		case err == nil:
			_, _ = reply.Write(b)
			r.Release()
		case !errors.As(err, new(syscall.Errno)): // closed
			return
		} // else nobody listens there just now, and the socket goes on
	}
}

// replies sends datagrams to the source of a flow, from the address that it has asked.
type replies struct {
	d *packetDoor
	w *flow
}

func (r *replies) Write(b []byte) (int, error) {
	r.w.touch()
	n, _, err := r.d.l.WriteMsgUDPAddrPort(b, r.w.local.b[:r.w.local.n], r.w.source)
	r.w.down.Add(uint64(n))
	r.d.down.Add(uint64(n))
	if errors.Is(err, net.ErrClosed) {
		return n, err
	}
	return len(b), nil
}
