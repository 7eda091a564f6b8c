package connectip

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

const (
	// readPart is how much is read of a stream of capsules at once: those of a client by HTTP/1.1 have all of its packets.
	readPart = 4 << 10
	// maxAsks is how many address requests may wait for an answer.
	maxAsks = 16
)

var errAsks = errors.New("too many address requests at once")

// A lane is where packets and capsules go. One goroutine uses it at a time, but for end.
type lane interface {
	// packet takes an IP packet with its context before it. It may wait.
	packet(b []byte) error
	// capsules sends capsules. It may wait.
	capsules(b []byte) error
	// flush sends what was taken.
	flush() error
	// max returns the length of the longest packet.
	max() int
	// end ends everything that waits, and the connection.
	end()
}

// A Stock is the connection of a client that knows RFC 9484 and nothing of Ferry. To the gateway it is a Link with the items of a client of
// 2013. One goroutine reads, one writes; Close may be called by anybody.
type Stock struct {
	lane   lane
	remote func() net.Addr
	routes []netip.Prefix
	start  time.Time // has the monotonic clock

	in         carrier.Inbox
	cur        *carrier.InboxBuffer // what Fill has returned; nil: nothing
	begin, end int

	receiving sync.WaitGroup
	once      sync.Once

	mu   sync.Mutex // guards asks
	asks [][]address

	// Of the goroutine that writes:
	pace    carrier.Pace
	told    bool // the routes were
	scratch []byte

	received, sent   tally
	strange, expired atomic.Uint64 // packets dropped: no packets of IP; lived too long
}

var _ carrier.Link = (*Stock)(nil)

// A tally counts bytes and knows when the last ones passed.
type tally struct {
	bytes atomic.Uint64
	last  atomic.Int64 // nanoseconds since start
}

func (s *Stock) count(t *tally, n int) {
	t.bytes.Add(uint64(n))
	t.last.Store(int64(time.Since(s.start)))
}

// newStock begins to read capsules. Its first item asks for an address, whatever the client says.
func newStock(l lane, stream io.Reader, remote func() net.Addr, routes []netip.Prefix) *Stock {
	s := &Stock{lane: l, remote: remote, routes: routes, start: time.Now(), asks: [][]address{nil}}
	s.in.Init()
	s.in.Put(request(netip.IPv4Unspecified()))
	s.receiving.Go(func() { s.in.Finish(s.readCapsules(stream)) })
	return s
}

// request returns the 2013 request for an address; 0.0.0.0: any.
func request(a netip.Addr) []byte {
	b := make([]byte, proto.ControlLen)
	b[0] = 0x45
	copy(b[12:], a.AsSlice())
	return b
}

// readCapsules takes what the client says on its stream, until that ends.
func (s *Stock) readCapsules(stream io.Reader) error {
	r := capsuleReader{br: bufio.NewReaderSize(stream, readPart)}
	var scratch []byte
	for {
		kind, _, err := r.next()
		if err != nil {
			return err
		}
		switch kind {
		case capsuleDatagram:
			if scratch, err = r.value(scratch[:0], maxCapsuleHeader+maxPacket); err == nil {
				s.datagram(scratch)
			}
		case capsuleRequest:
			if scratch, err = r.value(scratch[:0], maxAddresses); err == nil {
				err = s.ask(scratch)
			}
		}
		if err != nil {
			return err
		}
	}
}

// ask hands a request for addresses on: for the first one of IPv4, for there is one to a connection.
func (s *Stock) ask(value []byte) error {
	all, err := parseAddresses(value)
	if err != nil || len(all) == 0 {
		return errCapsule
	}
	want := netip.IPv4Unspecified()
	for _, a := range all {
		if a.id == 0 {
			return errCapsule
		}
		if a.prefix.Addr().Is4() {
			want = a.prefix.Addr()
			break
		}
	}
	s.mu.Lock()
	s.asks = append(s.asks, all)
	many := len(s.asks) > maxAsks
	s.mu.Unlock()
	if many {
		return errAsks
	}
	s.in.Put(request(want))
	return nil
}

// datagram takes an HTTP datagram, which is a packet if its context says so: what is of another one is dropped.
func (s *Stock) datagram(d []byte) {
	context, n := consumeVarint(d)
	if n == 0 || context != contextIP {
		s.strange.Add(1)
		return
	}
	s.take(d[n:])
}

// take takes a packet, if it is one: a client must not say words of 2013, or anything that has another length than it says.
func (s *Stock) take(packet []byte) {
	k, n, err := proto.Framer{}.Next(packet)
	if err != nil || n != len(packet) || k != proto.KindIPv4 && k != proto.KindIPv6 {
		s.strange.Add(1)
		return
	}
	s.count(&s.received, n)
	s.in.Put(packet)
}

// Fill is that of carrier.Link.
func (s *Stock) Fill() (buf []byte, start, end int, err error) {
	b, n, err := s.in.Take()
	if err != nil {
		s.Release()
		return nil, 0, 0, s.opError("read", err)
	}
	s.Release()
	s.cur, s.begin, s.end = b, carrier.Headroom, n
	return b[:], s.begin, s.end, nil
}

// Consume marks n bytes of what Fill returned as read. All items are whole: what is left is none, and is dropped.
func (s *Stock) Consume(n int) { s.begin += n }

// Release gives the buffer back.
func (s *Stock) Release() {
	s.cur.Release()
	s.cur = nil
}

// TryWrite takes nothing: neither QUIC nor a connection under TLS says what it would take at once.
func (s *Stock) TryWrite([]byte) (int, error) { return 0, nil }

// Held returns 0.
func (s *Stock) Held() int { return 0 }

// Grain is that of carrier.Stream.
func (s *Stock) Grain() int { return s.pace.Grain() }

// Write sends all items of b, which are whole.
func (s *Stock) Write(b []byte, progress func()) error {
	start, all := time.Now(), len(b)
	defer func() { s.pace.Took(all-len(b), time.Since(start)) }()
	for len(b) > 0 {
		k, n, err := proto.Framer{FromServer: true}.Next(b)
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF // a part of an item: nobody can tell where the next one begins
		}
		if err == nil {
			err = s.item(k, b[:n])
		}
		if err != nil {
			return s.opError("write", err)
		}
		if b = b[n:]; progress != nil {
			progress()
		}
	}
	return s.opError("write", s.lane.flush())
}

// item sends one item.
func (s *Stock) item(k proto.Kind, b []byte) error {
	switch k {
	case proto.KindReply:
		a, _ := netip.AddrFromSlice(b[16:20])
		return s.answer(a)
	case proto.KindIPv4, proto.KindIPv6:
		return s.send(b)
	}
	return nil // an echo of what no client of this kind has sent
}

// answer tells the client its address, and what it may send to.
func (s *Stock) answer(a netip.Addr) error {
	s.mu.Lock()
	var ask []address
	if len(s.asks) > 0 {
		ask, s.asks = s.asks[0], s.asks[1:]
	}
	s.mu.Unlock()
	s.scratch = appendAssign(s.scratch[:0], granted(ask, a))
	if !s.told {
		s.told = true
		s.scratch = appendRoutes(s.scratch, s.routes)
	}
	return s.lane.capsules(s.scratch)
}

// granted returns what a client has by the answer to what it asked for: one address, and the refusal of all others. Where it
// asked for another one, it keeps the one that it had.
func granted(ask []address, a netip.Addr) []address {
	own := address{prefix: netip.PrefixFrom(a, 32)}
	all := make([]address, 0, len(ask)+1)
	for _, q := range ask {
		if want := q.prefix.Addr(); own.id == 0 && want.Is4() && (want == a || want.IsUnspecified()) {
			own.id = q.id
			continue
		}
		all = append(all, q.refused())
	}
	return append(all, own)
}

// send sends a packet, which has made one hop.
func (s *Stock) send(packet []byte) error {
	s.scratch = append(append(s.scratch[:0], contextIP), packet...)
	if !hop(s.scratch[1:]) {
		s.expired.Add(1)
		return nil
	}
	s.count(&s.sent, len(packet))
	return s.lane.packet(s.scratch)
}

// hop takes one off the life of a packet, and tells whether it lives on.
func hop(p []byte) bool {
	at := 8
	if p[0]>>4 == 6 {
		at = 7
	}
	if p[at] <= 1 {
		return false
	}
	if p[at]--; at == 7 {
		return true
	}
	sum := uint32(binary.BigEndian.Uint16(p[10:])) + 1<<8 // RFC 1141: the sum of what is less by one there
	binary.BigEndian.PutUint16(p[10:], uint16(sum+sum>>16))
	return true
}

// RemoteAddr returns where the client is now, an Addr.
func (s *Stock) RemoteAddr() net.Addr { return s.remote() }

// Received returns the bytes of packets that came.
func (s *Stock) Received() uint64 { return s.received.bytes.Load() }

// Sent returns the bytes of packets that were sent.
func (s *Stock) Sent() uint64 { return s.sent.bytes.Load() }

// LastReceived returns the present time: a client of this kind has no word for being there, so QUIC or TCP ask it, and the link
// ends when it does not answer them.
func (s *Stock) LastReceived() time.Time { return time.Now() }

// LastSent returns when the last packet was sent; at first, when the link was made.
func (s *Stock) LastSent() time.Time { return s.start.Add(time.Duration(s.sent.last.Load())) }

// Max returns the length of the longest packet that reaches the client now.
func (s *Stock) Max() int { return s.lane.max() }

// Dropped returns how many packets were dropped: that came and were none, and that had no hop left.
func (s *Stock) Dropped() (strange, expired uint64) { return s.strange.Load(), s.expired.Load() }

// Close ends the link, and waits for its goroutines. It is idempotent.
func (s *Stock) Close() error {
	s.once.Do(func() {
		s.in.Close()
		s.lane.end()
		s.receiving.Wait()
	})
	return nil
}

func (s *Stock) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	remote := s.RemoteAddr()
	return &net.OpError{Op: op, Net: remote.Network(), Addr: remote, Err: err}
}
