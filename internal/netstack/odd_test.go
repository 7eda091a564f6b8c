package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"ferry/internal/hostnet"
	"ferry/internal/packet"
	"ferry/internal/proto"
)

// Packets that no stack would make, from nobody who answers.
var mute = netip.MustParseAddr("10.0.0.9")

// frame returns a data frame with a packet of a protocol to the outside.
func frame(o packet.Offload, protocol uint8, payload []byte) []byte {
	b := make([]byte, proto.DataHeaderLen+header.IPv4MinimumSize, proto.DataHeaderLen+header.IPv4MinimumSize+len(payload))
	proto.PutDataHeader(b, header.IPv4MinimumSize+len(payload))
	o.Put(b[proto.FrameHeaderLen:])
	putIPv4(b[proto.DataHeaderLen:], mute, outside, protocol, len(payload))
	return append(b, payload...)
}

// datagram returns a packet of UDP whose header says that it has n bytes, with a checksum over as many.
func datagram(to uint16, n int, payload string) []byte {
	u := append(make([]byte, udpHeader), payload...)
	header.UDP(u).Encode(&header.UDPFields{SrcPort: 5, DstPort: to, Length: uint16(n)})
	ip := packet.IPv4(frame(packet.Offload{}, protoUDP, u)[proto.DataHeaderLen:])
	if n <= len(u) {
		header.UDP(u).SetChecksum(packet.Checksum(u[:n], packet.PseudoSum(ip, protoUDP, n)))
	}
	return frame(packet.Offload{}, protoUDP, u)
}

// heard returns a socket, and what it has received first.
func heard(t *testing.T) (port uint16, first func() string) {
	t.Helper()
	x, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x.LocalAddr().(*net.UDPAddr).AddrPort().Port(), func() string {
		_ = x.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 65535)
		n, err := x.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

// A packet that ends within the transport header, or claims to, is damaged; it is not what ends this process.
func TestShort(t *testing.T) {
	c := newClient(t, Config{})
	port, first := heard(t)
	for n := range udpHeader {
		for _, protocol := range []uint8{protoICMP, protoTCP, protoUDP} {
			c.exit.Send(frame(packet.Offload{}, protocol, make([]byte, n)))
			c.Send(frame(packet.Offload{}, protocol, make([]byte, n)))
		}
		c.exit.Send(datagram(port, n, "x"))
	}
	c.exit.Send(datagram(port, udpHeader+5, "long"))
	// What stands behind the end that its header names is none of UDP's (RFC 9868).
	c.exit.Send(datagram(port, udpHeader+5, "rightsurplus"))
	if got := first(); got != "right" {
		t.Errorf("%q came first", got)
	}
}

// A checksum within a payload, as of a packet in VXLAN, is completed before that goes on as a payload.
func TestChecksumWithin(t *testing.T) {
	c := newClient(t, Config{})
	port, first := heard(t)
	u := append(make([]byte, udpHeader), bytes.Repeat([]byte("inner"), 10)...)
	header.UDP(u).Encode(&header.UDPFields{SrcPort: 5, DstPort: port, Length: uint16(len(u))})
	o := packet.Offload{Flags: packet.NeedsCsum, CsumStart: header.IPv4MinimumSize + udpHeader + 20, CsumOffset: 16}
	f := frame(o, protoUDP, u)
	before := bytes.Clone(f)
	c.exit.Send(f)
	packet.CompleteChecksum(o, before[proto.DataHeaderLen:])
	if got, want := first(), string(before[proto.DataHeaderLen+header.IPv4MinimumSize+udpHeader:]); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A client that does not answer a SYN-ACK holds an attempt as long as a destination that is silent may, and does not keep the exit from ending.
func TestHalfOpen(t *testing.T) {
	for _, timeout := range []time.Duration{200 * time.Millisecond, time.Hour} {
		t.Run(timeout.String(), func(t *testing.T) {
			var end time.Time
			t.Cleanup(func() {
				if d := time.Since(end); d > patience/2 {
					t.Errorf("it took %s to end", d)
				}
			})
			c := newClient(t, Config{DialTimeout: timeout})
			accepted := make(chan struct{})
			port := listen(t, func(*net.TCPConn) { accepted <- struct{}{} })
			c.exit.Send(syn(port))
			select {
			case <-accepted:
			case <-time.After(patience):
				t.Fatal("nothing was dialled")
			}
			for timeout < patience && c.exit.attempts() > 0 {
				if end = time.Now(); time.Since(end) > patience {
					t.Fatal("the attempt does not end")
				}
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond) // until the SYN-ACK is sent
			end = time.Now()
		})
	}
}

func (e *Exit) attempts() int {
	e.conns.mu.Lock()
	defer e.conns.mu.Unlock()
	return len(e.conns.attempts)
}

func syn(port uint16) []byte {
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&header.TCPFields{SrcPort: 5, DstPort: port, SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
	ip := packet.IPv4(frame(packet.Offload{}, protoTCP, b)[proto.DataHeaderLen:])
	header.TCP(b).SetChecksum(packet.Checksum(b, packet.PseudoSum(ip, protoTCP, len(b))))
	return frame(packet.Offload{}, protoTCP, b)
}

// A client may use a port again for the same destination, though that closed first: the stack has nobody who listens for a SYN to what it remembers of
// the connection before.
func TestPortAgain(t *testing.T) {
	c := newClient(t, Config{})
	port := listen(t, func(*net.TCPConn) {})
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		x, err := gonet.DialTCPWithBind(ctx, c.stack, full(netip.AddrPortFrom(here, 4000)), full(netip.AddrPortFrom(outside, port)), ipv4.ProtocolNumber)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		_ = x.SetDeadline(time.Now().Add(patience))
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		_ = x.Close()
		for len(c.stack.RegisteredEndpoints()) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// What clients leave behind that vanish while something is on its way to them counts as connections, too, and has no more room than these.
func TestVanished(t *testing.T) {
	const conns = 4
	c := newClient(t, Config{})
	answered := make(chan struct{})
	port := listen(t, func(x *net.TCPConn) {
		_, _ = io.ReadAll(x)
		_, _ = x.Write(make([]byte, 100<<10))
		_ = x.Close()
		answered <- struct{}{}
	})
	var all []*gonet.TCPConn
	for range conns {
		all = append(all, c.mustDial(port))
	}
	nothing := func([]byte) []byte { return nil }
	c.through.Store(&nothing)
	for _, x := range all {
		if err := x.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		<-answered
	}
	time.Sleep(100 * time.Millisecond) // until what was answered is on its way
	if n := c.exit.Stats().Conns; n != conns {
		t.Errorf("%d connections, want %d", n, conns)
	}
}

// A connection that has ended is forgotten at once when the client closed first.
func TestForgotten(t *testing.T) {
	c := newClient(t, Config{})
	port := listen(t, echo)
	x := c.mustDial(port)
	if err := x.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	for end := time.Now().Add(patience); c.exit.Stats().Conns > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is kept")
		}
	}
}

// fragment returns a data frame with a piece of a datagram to the outside.
func fragment(ip []byte, from, to int) []byte {
	f := frame(packet.Offload{}, protoUDP, ip[header.IPv4MinimumSize+from:header.IPv4MinimumSize+to])
	h := header.IPv4(f[proto.DataHeaderLen:])
	var flags uint8
	if header.IPv4MinimumSize+to < len(ip) {
		flags = header.IPv4FlagMoreFragments
	}
	h.SetID(7)
	h.SetFlagsFragmentOffset(flags, uint16(from))
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	return f
}

// A datagram in pieces is damaged, too, where its checksum is wrong.
func TestDamagedFragments(t *testing.T) {
	c := newClient(t, Config{})
	port, first := heard(t)
	for i, text := range []string{"damaged.", "whole..."} {
		ip := datagram(port, udpHeader+8, text)[proto.DataHeaderLen:]
		if i == 0 {
			ip[len(ip)-1] = '!'
		}
		c.exit.Send(fragment(ip, 0, 8))
		c.exit.Send(fragment(ip, 8, 16))
	}
	if got := first(); got != "whole..." {
		t.Errorf("%q came first", got)
	}
	if n := c.exit.Stats().Checksum; n != 1 {
		t.Errorf("%d are counted as damaged", n)
	}
}

// What is too long for a way behind the client is sent anew in shorter segments: the client's side is told by ICMP, at the address of the destination.
func TestTooLong(t *testing.T) {
	const mtu = 700
	c := newClient(t, Config{})
	answer := random(200 << 10)
	port := listen(t, func(x *net.TCPConn) {
		_, _ = io.ReadAll(x)
		_, _ = x.Write(answer)
	})
	x := c.mustDial(port)
	narrow := func(run []byte) []byte { // lets what is short pass, and answers what is not
		var short []byte
		for len(run) > 0 {
			n := proto.DataLen(run)
			if o, _ := packet.ConsumeOffload(run[proto.FrameHeaderLen:]); packet.MaxSegment(o, run[proto.DataHeaderLen:n]) <= mtu {
				short = append(short, run[:n]...)
			} else {
				c.exit.Send(fragNeeded(run[proto.DataHeaderLen:n], mtu))
			}
			run = run[n:]
		}
		return short
	}
	c.through.Store(&narrow)
	if err := x.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(x); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(answer), err)
	}
}

// fragNeeded returns a data frame that says that a packet was longer than mtu.
func fragNeeded(ip []byte, mtu uint16) []byte {
	m := append(make([]byte, header.ICMPv4MinimumSize), ip[:header.IPv4MinimumSize+8]...)
	header.ICMPv4(m).SetType(header.ICMPv4DstUnreachable)
	header.ICMPv4(m).SetCode(header.ICMPv4FragmentationNeeded)
	header.ICMPv4(m).SetMTU(mtu)
	header.ICMPv4(m).SetChecksum(packet.Checksum(m, 0))
	return frame(packet.Offload{}, protoICMP, m)
}

// Clients leave descriptors for those who come.
func TestFewDescriptors(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &was) })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1000, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	var c Config
	c.setDefaults()
	if n := c.Dials + c.Conns + c.Flows; n > 900 {
		t.Errorf("%d sockets where there are 1000 descriptors", n)
	}
}

// A client that fills a table does so at its own cost.
func TestShares(t *testing.T) {
	c := newClient(t, Config{Conns: 3, Flows: 3})
	port := listen(t, echo)
	x, u := c.mustDial(port), c.mustDialUDP(udpEcho(t))
	c.ask(u, "x")
	for range 5 {
		to, _ := heard(t)
		c.exit.Send(datagram(to, udpHeader+1, "x"))
		c.another(port)
	}
	until(t, "six gave way", func() bool { return c.exit.Stats().Evicted == 6 })
	c.exit.flows.mu.Lock()
	n := len(c.exit.flows.of.of[here].all)
	c.exit.flows.mu.Unlock()
	if n != 1 {
		t.Errorf("%d flows of who has one", n)
	}
	if _, err := x.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(x, make([]byte, 1)); err != nil {
		t.Errorf("a connection of who has one: %v", err)
	}
}

// another gives the exit a connection of another client.
func (c *client) another(port uint16) {
	c.t.Helper()
	out, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	if err != nil {
		c.t.Fatal(err)
	}
	var queue waiter.Queue
	in, problem := c.exit.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if problem != nil {
		c.t.Fatal(problem)
	}
	if !c.exit.conns.memory.reserve(c.t.Context(), firstWindow) {
		c.t.Fatal("there is no memory")
	}
	x := newConn(in, &queue, out, time.Hour)
	x.client = mute
	x.join(c.exit.conns.memory, firstWindow)
	if !c.exit.conns.add(x) {
		c.t.Error("there is no room")
	}
	c.t.Cleanup(func() { x.abort(); c.exit.conns.remove(x); x.leave() })
}

// With another lease, who was connected from the address before hears that at once; who listens does so at the new one.
func TestAnotherAddress(t *testing.T) {
	c := newClient(t, Config{})
	x := c.mustDial(listen(t, echo))
	l, err := c.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() { // ends with the listener
		_, err := l.Accept()
		accepted <- err
	}()
	if err := c.Apply(hostnet.State{Addr: netip.PrefixFrom(mute, 16)}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-accepted:
		t.Errorf("the listener has ended: %v", err)
	default:
	}
	_ = l.Close()
	<-accepted
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
