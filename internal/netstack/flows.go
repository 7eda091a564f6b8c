package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"ferry/internal/packet"
	"ferry/internal/relay"
)

// flows are what is carried of UDP and of ICMP echo: each has a socket, which knows its destination, and a goroutine that waits for replies.
type flows struct {
	e       *Exit
	gateway atomic.Pointer[netip.Addr] // nil until Apply
	work    sync.WaitGroup

	mu   sync.Mutex // guards what follows
	all  map[flowKey]*flow
	of   shares[*flow]
	over bool
}

// A flowKey is what the packets of a flow share. With ICMP the client's port is the identifier of its echoes, and there is no other.
type flowKey struct {
	protocol   uint8
	client, to netip.AddrPort
}

// A flow is one.
type flow struct {
	flowKey
	owner netip.Addr // the client that it belongs to
	place int        // of shares
	file  *os.File
	raw   syscall.RawConn
	idle  time.Duration
	born  time.Time
	last  atomic.Int64  // when a packet passed, in nanoseconds since 1970
	sent  atomic.Uint64 // bytes of payload from the client
	got   atomic.Uint64 // bytes of payload to the client

	mu    sync.Mutex // guards what follows: one packet is sent at a time
	b     []byte     // the payload to be sent
	ttl   uint8      // which it has
	has   uint8      // which the socket gives; 0: it has not been told
	fault error
	try   func(fd uintptr) bool // sends b, once
}

// seat implements member, as used does.
func (f *flow) seat() *int  { return &f.place }
func (f *flow) used() int64 { return f.last.Load() }

func newFlows(e *Exit) *flows {
	return &flows{e: e, all: map[flowKey]*flow{}, of: newShares[*flow]()}
}

const (
	udpHeader  = header.UDPMinimumSize
	echoHeader = header.ICMPv4MinimumSize
)

// packet takes a whole packet of UDP, or an echo request, which is for somebody beyond the gateway; false: it is something else.
func (t *flows) packet(ip packet.IPv4) bool {
	if g := t.gateway.Load(); g == nil || *g == ip.Dst() {
		return false
	}
	b := ip[ip.HeaderLen():]
	k := flowKey{protocol: ip.Protocol(), client: netip.AddrPortFrom(ip.Src(), 0), to: netip.AddrPortFrom(ip.Dst(), 0)}
	switch {
	case k.protocol == protoUDP && len(b) >= udpHeader:
		k.client = netip.AddrPortFrom(k.client.Addr(), binary.BigEndian.Uint16(b))
		k.to = netip.AddrPortFrom(k.to.Addr(), binary.BigEndian.Uint16(b[2:]))
		b = b[udpHeader:max(udpHeader, min(len(b), int(binary.BigEndian.Uint16(b[4:]))))]
	case k.protocol == protoICMP && len(b) >= echoHeader:
		if header.ICMPv4(b).Type() != header.ICMPv4Echo {
			return !isTooLong(header.ICMPv4(b)) // other errors are about what comes out of sockets, and nobody there would hear them
		}
		k.client = netip.AddrPortFrom(k.client.Addr(), header.ICMPv4(b).Ident())
	default:
		return false
	}
	t.send(k, b, ip.TTL()-1)
	return true
}

// isTooLong tells whether an error says that a segment was too long for a way behind the client, which the stack has to hear (RFC 1191). It says nothing
// that proves who sent it, so no shorter ways are believed than the kernel believes in (tcp(7), net.ipv4.route.min_pmtu).
func isTooLong(m header.ICMPv4) bool {
	const least = 552
	return m.Type() == header.ICMPv4DstUnreachable && m.Code() == header.ICMPv4FragmentationNeeded && m.MTU() >= least
}

// reassembled takes a packet that the stack has put together of fragments, and all that is for the gateway itself.
func (t *flows) reassembled(_ stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	v := pkt.ToView() // rare: it takes memory
	defer v.Release()
	ip := packet.IPv4(v.AsSlice())
	if len(ip) < header.IPv4MinimumSize || isWrong(packet.Offload{}, ip) {
		t.e.count.checksum.Add(1)
		return true
	}
	return t.packet(ip)
}

// send sends a payload by its flow, which is made if there is none.
func (t *flows) send(k flowKey, b []byte, ttl uint8) {
	f, err := t.get(k)
	if err != nil {
		t.refuse(k, err)
		return
	}
	err = f.send(b, ttl)
	if err != nil && t.hear(f) { // it was about an earlier one: this one has not gone
		err = f.send(b, ttl)
	}
	if err != nil {
		t.refuse(k, err)
	}
}

func (t *flows) get(k flowKey) (*flow, error) {
	t.mu.Lock()
	f, over := t.all[k], t.over
	t.mu.Unlock()
	if f != nil {
		return f, nil
	}
	if over {
		return nil, os.ErrClosed
	}
	f, err := t.open(k)
	if err != nil {
		return nil, err
	}
	f, spare := t.add(f)
	if spare != nil {
		_ = spare.file.Close()
	}
	if f == nil {
		return nil, os.ErrClosed
	}
	return f, nil
}

// add makes room for a flow: where there is none, one gives way that was idle for long, of the client that has most. It returns the flow that there is now,
// and one that has to be closed.
func (t *flows) add(f *flow) (now, spare *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil, f
	}
	if same := t.all[f.flowKey]; same != nil { // somebody was faster
		return same, f
	}
	if t.of.n >= t.e.c.Flows {
		spare = t.of.oldest()
		t.forget(spare)
		t.e.count.evicted.Add(1)
	}
	t.all[f.flowKey] = f
	t.of.add(f.owner, f)
	t.work.Go(func() {
		t.receive(f)
		t.remove(f)
	})
	return f, spare
}

func (t *flows) remove(f *flow) {
	t.mu.Lock()
	if t.all[f.flowKey] == f {
		t.forget(f)
	}
	t.mu.Unlock()
	_ = f.file.Close()
}

// forget takes a flow out of the table. The caller holds mu.
func (t *flows) forget(f *flow) {
	delete(t.all, f.flowKey)
	t.of.sub(f.owner, f)
}

// open makes the socket of a flow. A ping socket needs no rights where net.ipv4.ping_group_range allows it (icmp(7)).
func (t *flows) open(k flowKey) (*flow, error) {
	protocol := unix.IPPROTO_UDP
	if k.protocol == protoICMP {
		protocol = unix.IPPROTO_ICMP
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	to := t.e.c.target(k.to)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1) // else routers on the way are not heard (hear)
	f := &flow{
		flowKey: k, owner: t.e.owner(k.client.Addr()), file: os.NewFile(uintptr(fd), fmt.Sprintf("flow to %s", k.to)), idle: t.e.c.Idle(k.protocol, k.to.Port()), born: time.Now(),
	}
	f.try = f.write
	f.touch()
	if f.raw, err = f.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	return f, nil
}

func (f *flow) touch() { f.last.Store(time.Now().UnixNano()) }

// send sends a payload, which may pass ttl routers. What the socket does not take is lost, as UDP may be.
func (f *flow) send(b []byte, ttl uint8) error {
	f.touch()
	f.sent.Add(uint64(len(b)))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.b, f.ttl = b, ttl
	err := f.raw.Write(f.try)
	f.b = nil
	if err != nil {
		return err
	}
	return f.fault
}

func (f *flow) write(fd uintptr) bool {
	if f.ttl != f.has {
		if f.fault = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, int(f.ttl)); f.fault != nil {
			return true
		}
		f.has = f.ttl
	}
	for {
		_, f.fault = unix.SendmsgN(int(fd), f.b, nil, nil, unix.MSG_DONTWAIT)
		switch f.fault {
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.ENOBUFS:
			f.fault = nil
		}
		return true
	}
}

// receive hands the client what comes back, until nothing has passed for too long.
func (t *flows) receive(f *flow) {
	r := relay.NewReader(f.raw, relay.Size)
	for {
		_ = f.file.SetReadDeadline(time.Unix(0, f.last.Load()).Add(f.idle))
		b, err := r.Next()
		if err == nil {
			f.touch()
			f.got.Add(uint64(len(b)))
			t.reply(f, b)
			r.Release()
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(time.Unix(0, f.last.Load())) >= f.idle {
				return
			}
		default:
			if !errors.As(err, new(syscall.Errno)) || errors.Is(err, os.ErrClosed) {
				return
			}
			t.hear(f) // or send has heard it
		}
	}
}

// reply sends a payload, or an echo reply, to the client of a flow.
func (t *flows) reply(f *flow, b []byte) {
	if f.protocol == protoICMP {
		t.echoReply(f, b)
		return
	}
	if len(b) > maxPayload {
		return
	}
	var head [header.IPv4MinimumSize + udpHeader]byte
	u := header.UDP(head[header.IPv4MinimumSize:])
	u.Encode(&header.UDPFields{SrcPort: f.to.Port(), DstPort: f.client.Port(), Length: uint16(udpHeader + len(b))})
	putIPv4(head[:], f.to.Addr(), f.client.Addr(), protoUDP, len(b))
	sum := uint32(^packet.Checksum(u, packet.PseudoSum(head[:], protoUDP, udpHeader+len(b))))
	if s := packet.Checksum(b, sum); s != 0 {
		u.SetChecksum(s)
	} else {
		u.SetChecksum(0xffff) // RFC 768: 0 would say that there is none
	}
	t.e.link.out.packet(head[:], b)
}

const maxPayload = 65535 - header.IPv4MinimumSize - udpHeader

// echoReply sends what a ping socket has received, under the identifier that the client knows.
func (t *flows) echoReply(f *flow, b []byte) {
	m := header.ICMPv4(b)
	if len(b) < echoHeader || m.Type() != header.ICMPv4EchoReply {
		return
	}
	m.SetIdent(f.client.Port())
	m.SetChecksum(0)
	m.SetChecksum(packet.Checksum(b, 0))
	var head [header.IPv4MinimumSize]byte
	putIPv4(head[:], f.to.Addr(), f.client.Addr(), protoICMP, len(b))
	t.e.link.out.packet(head[:], b)
}

// putIPv4 writes the header of an IPv4 packet to the start of b, which more bytes follow.
func putIPv4(b []byte, src, dst netip.Addr, protocol uint8, more int) {
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + more), TTL: 64, Protocol: protocol, SrcAddr: toStack(src), DstAddr: toStack(dst)})
	h.SetChecksum(^h.CalculateChecksum())
}

// close ends all flows and waits until they have. It may be called more than once.
func (t *flows) close() {
	t.mu.Lock()
	t.over = true
	for _, f := range t.all {
		_ = f.file.Close()
	}
	t.mu.Unlock()
	t.work.Wait()
}
