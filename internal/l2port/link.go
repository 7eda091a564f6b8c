package l2port

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/l2port/ether"
	"ferry/internal/proto"
)

const (
	// maxMTU is what a machine gets that knows nothing else: Ethernet's.
	maxMTU = 1500
	// part is how many bytes of items become frames at once.
	part = 64 << 10
	// maxAnswers is how many bytes of answers wait for a machine that does not read.
	maxAnswers = 32 << 10
)

// A Link is the cable of one machine. To the gateway it has the items of a client of 2013. One goroutine reads, one writes at a
// time; Close may be called by anybody.
type Link struct {
	s       *carrier.Stream
	framing Framing
	remote  net.Addr
	mtu     int
	lossy   interface{ Lost() uint64 } // the connection, if it loses what does not fit; else nil

	// Of the goroutine that reads:
	taken int   // bytes of s that have become items
	bad   error // what ends the connection behind those

	// Of the goroutine that writes:
	out  *[]byte // nil: none is borrowed
	held []byte  // frames in out that were not written yet

	mu      sync.Mutex // guards what follows
	port    *ether.Port
	answers []byte // frames that wait for the echo of a keepalive
}

var _ carrier.Link = (*Link)(nil)

// outPool has the buffers for frames on their way out. One get (Link.encode), one put (Link.hold).
var outPool = sync.Pool{New: func() any { b := make([]byte, 0, 2*part); return &b }}

// NewLink makes a link of a connection on which frames are exchanged.
func NewLink(conn net.Conn, f Framing, remote net.Addr, c ether.Config) *Link {
	c.MTU = min(c.MTU, maxMTU)
	lossy, _ := conn.(interface{ Lost() uint64 })
	return &Link{lossy: lossy, s: carrier.NewStream(conn), framing: f, remote: remote, mtu: c.MTU, port: ether.NewPort(c)}
}

// Name returns the name of the machine, which is its MAC; empty: it has not asked for an address.
func (l *Link) Name() string {
	if m := l.MAC(); m != (ether.MAC{}) {
		return m.String()
	}
	return ""
}

// MAC returns the hardware address of the machine; zero: it has not asked for an address.
func (l *Link) MAC() ether.MAC {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.port.MAC()
}

// Wanted returns the address that the machine would like to have; it may be invalid.
func (l *Link) Wanted() netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.port.Wanted()
}

// AddDrops adds the frames that were dropped so far to drops, by the names of the reasons.
func (l *Link) AddDrops(drops map[string]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.port.AddDrops(drops)
	if l.lossy == nil {
		return
	}
	if n := l.lossy.Lost(); n > 0 {
		drops[ether.Unread.String()] += n
	}
}

// Fill is that of carrier.Link. All items are whole.
func (l *Link) Fill() (buf []byte, start, end int, err error) {
	for {
		if err := l.bad; err != nil {
			l.s.Release()
			return nil, 0, 0, &net.OpError{Op: "read", Net: l.remote.Network(), Addr: l.remote, Err: err}
		}
		l.s.Consume(l.taken)
		l.taken = 0
		buf, start, end, err := l.s.Fill()
		if err != nil {
			return nil, 0, 0, err
		}
		if n := l.items(buf[start:end]); n > 0 {
			return buf, start, start + n, nil
		}
	}
}

// items makes items of the whole frames in b, at the start of b, and returns how many bytes that are. Items are shorter than
// the frames of which they are made.
func (l *Link) items(b []byte) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.taken < len(b) {
		size, err := l.framing.next(b[l.taken:])
		if err != nil {
			l.port.Drop(ether.Oversized)
			l.bad = err
			break
		}
		if size == 0 {
			break
		}
		frame := b[l.taken+l.framing.head() : l.taken+size]
		if l.taken += size; len(frame) > MaxFrame { // a datagram: the next one begins where it begins
			l.port.Drop(ether.Oversized)
			continue
		}
		n += l.item(b[n:], frame)
	}
	return n
}

// item writes what frame says to the gateway to b, and returns how many bytes that are. The caller holds mu.
func (l *Link) item(b, frame []byte) int {
	switch verdict, packet := l.port.In(frame); verdict {
	case ether.Packet:
		return copy(b, packet)
	case ether.Ask:
		return len(proto.AppendRequest(b[:0], proto.Request{}))
	case ether.Reply:
		return l.answer(b, packet)
	}
	return 0
}

// answer keeps a frame for the goroutine that writes, and calls it by a keepalive if it was not called yet. The caller holds mu.
func (l *Link) answer(b, frame []byte) int {
	if len(l.answers) > maxAnswers {
		l.port.Drop(ether.Unread)
		return 0
	}
	called := len(l.answers) > 0
	l.answers = l.append(l.answers, frame)
	if called {
		return 0
	}
	return len(proto.AppendKeepalive(b[:0]))
}

func (l *Link) append(b, frame []byte) []byte {
	at := len(b)
	b = append(l.framing.begin(b), frame...)
	l.framing.finish(b[at:])
	return b
}

// Consume does nothing: all of what Fill returned is read before it is called again.
func (l *Link) Consume(int) {}

// Release gives the buffers of the reading goroutine back.
func (l *Link) Release() { l.s.Release() }

// TryWrite takes what can be written without waiting, and holds a part of that.
func (l *Link) TryWrite(b []byte) (int, error) {
	for n := 0; ; {
		if err := l.try(); err != nil || len(l.held) > 0 || n == len(b) {
			return n, err
		}
		n += l.encode(b[n:])
	}
}

// try writes what the system takes of what is held.
func (l *Link) try() error {
	for len(l.held) > 0 {
		b, head := l.chunk()
		n, err := l.s.TryWrite(b)
		if err != nil {
			return err
		}
		if n < len(b) {
			if n > 0 { // never of a datagram
				l.hold(l.held[n:])
			}
			return nil
		}
		l.hold(l.held[head+n:])
	}
	return nil
}

// Write writes all of b behind what is held.
func (l *Link) Write(b []byte, progress func()) error {
	for {
		for len(l.held) > 0 {
			chunk, head := l.chunk()
			if err := l.s.Write(chunk, progress); err != nil {
				return err
			}
			l.hold(l.held[head+len(chunk):])
		}
		if len(b) == 0 {
			return nil
		}
		b = b[l.encode(b):]
	}
}

// chunk returns what goes into one write of what is held, and how much before it does not: a datagram at a time.
func (l *Link) chunk() (b []byte, head int) {
	if l.framing != Datagrams {
		return l.held, 0
	}
	const head4 = 4
	n := int(binary.BigEndian.Uint32(l.held))
	return l.held[head4 : head4+n], head4
}

// encode makes frames of the first items of b, and returns how many bytes of it those are. Nothing is held before.
func (l *Link) encode(b []byte) int {
	if l.out == nil {
		l.out = outPool.Get().(*[]byte)
	}
	n := max(proto.WholeItems(b, part), proto.ItemLen(b))
	l.mu.Lock()
	defer l.mu.Unlock()
	out := (*l.out)[:0]
	for items := b[:n]; len(items) > 0; {
		kind, size, err := proto.Framer{FromServer: true}.Next(items)
		if err != nil || size == 0 {
			panic("l2port: a part of an item")
		}
		out = l.frames(out, kind, items[:size])
		items = items[size:]
	}
	*l.out = out
	l.hold(out)
	return n
}

// frames appends what an item is to the machine. The caller holds mu.
func (l *Link) frames(out []byte, kind proto.Kind, item []byte) []byte {
	switch kind {
	case proto.KindReply:
		if frame := l.port.Assign(proto.ParseReply(item).Addr); frame != nil {
			return l.append(out, frame)
		}
	case proto.KindKeepalive:
		out = append(out, l.answers...)
		l.answers = l.answers[:0]
	case proto.KindIPv4:
		at := len(out)
		out = l.port.AppendFrame(l.framing.begin(out), item)
		l.framing.finish(out[at:])
	}
	return out
}

// hold keeps what is left of the frames in out, and the buffer only as long as there is something.
func (l *Link) hold(rest []byte) {
	l.held = rest
	if len(rest) == 0 && l.out != nil {
		outPool.Put(l.out)
		l.out, l.held = nil, nil
	}
}

// Held returns how many bytes of memory are taken by what TryWrite took and could not send.
func (l *Link) Held() int {
	if len(l.held) == 0 {
		return 0
	}
	return cap(*l.out)
}

// Grain is that of carrier.Stream.
func (l *Link) Grain() int { return l.s.Grain() }

// RemoteAddr returns where the machine is plugged in.
func (l *Link) RemoteAddr() net.Addr { return l.remote }

// Received returns the bytes of frames that came.
func (l *Link) Received() uint64 { return l.s.Received() }

// Sent returns the bytes of frames that were sent.
func (l *Link) Sent() uint64 { return l.s.Sent() }

// LastReceived returns the present time: a machine has nothing to say while it sleeps, and its end of the socket says when it is gone.
func (l *Link) LastReceived() time.Time { return time.Now() }

// LastSent returns when the last frame was sent; at first, when the link was made.
func (l *Link) LastSent() time.Time { return l.s.LastSent() }

// Max returns the length of the longest packet that the machine takes.
func (l *Link) Max() int { return l.mtu }

// Close ends the link. It is idempotent.
func (l *Link) Close() error { return l.s.Close() }
