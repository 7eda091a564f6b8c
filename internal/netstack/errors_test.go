package netstack

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// errorsTo returns what the exit says by ICMP, in the place of the client, which hears the rest.
func (c *client) errorsTo() <-chan packet.IPv4 {
	all := make(chan packet.IPv4, 64)
	listen := func(run []byte) (rest []byte) {
		for len(run) > 0 {
			n := proto.DataLen(run)
			ip := packet.IPv4(run[proto.DataHeaderLen:n])
			if ip.Protocol() == protoICMP && header.ICMPv4(ip[ip.HeaderLen():]).Type() != header.ICMPv4EchoReply {
				all <- slices.Clone(ip)
			} else {
				rest = append(rest, run[:n]...)
			}
			run = run[n:]
		}
		return rest
	}
	c.through.Store(&listen)
	return all
}

func wait[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case x := <-c:
		return x
	case <-time.After(patience):
		t.Fatal("nothing comes")
	}
	panic("unreachable")
}

// from makes a data frame one of another source and TTL, with the checksums that it has then.
func from(f []byte, source netip.Addr, ttl uint8) []byte {
	f = slices.Clone(f)
	ip := f[proto.DataHeaderLen:]
	h := header.IPv4(ip)
	h.SetSourceAddress(toStack(source))
	h.SetTTL(ttl)
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	b := ip[header.IPv4MinimumSize:]
	switch h.Protocol() {
	case protoUDP:
		header.UDP(b).SetChecksum(0) // there is none
	case protoTCP:
		header.TCP(b).SetChecksum(0)
		header.TCP(b).SetChecksum(packet.Checksum(b, packet.PseudoSum(ip, protoTCP, len(b))))
	}
	return f
}

// A hop is a hop: a packet that may take one more ends here, its sender is told, and one that may take more has one less. So what is routed in a circle ends.
func TestHops(t *testing.T) {
	c := newClient(t, Config{})
	said := c.errorsTo()
	port, first := heard(t)
	for _, f := range [][]byte{datagram(port, udpHeader+3, "one"), syn(port), frame(packet.Offload{}, protoICMP, echoRequest())} {
		c.exit.Send(from(f, here, 1))
		ip := wait(t, said)
		m := header.ICMPv4(ip[ip.HeaderLen():])
		if ip.Src() != gateway || ip.Dst() != here || m.Type() != header.ICMPv4TimeExceeded || packet.Checksum(m, 0) != 0 || packet.IPv4(m[8:]).Dst() != outside {
			t.Errorf("%s says type %d about a packet to %s", ip.Src(), m.Type(), packet.IPv4(m[8:]).Dst())
		}
	}
	if s := c.exit.Stats(); s.Expired != 3 || s.Flows != 0 || c.exit.attempts() != 0 {
		t.Errorf("%+v", s)
	}
	c.exit.Send(from(datagram(port, udpHeader+3, "two"), here, 2))
	if got := first(); got != "two" {
		t.Errorf("%q came first", got)
	}
	for _, ttl := range []uint8{7, 64, 200} {
		if got := c.ttlOf(t, ttl); got != int(ttl)-1 {
			t.Errorf("what came with a TTL of %d goes on with %d", ttl, got)
		}
	}
}

// ttlOf returns with which TTL a datagram goes on.
func (c *client) ttlOf(t *testing.T, ttl uint8) int {
	t.Helper()
	x, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	_ = x.SetDeadline(time.Now().Add(patience))
	raw, _ := x.SyscallConn()
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTTL, 1) })
	if err != nil {
		t.Fatal(err)
	}
	c.exit.Send(from(datagram(x.LocalAddr().(*net.UDPAddr).AddrPort().Port(), udpHeader+1, "x"), here, ttl))
	about := make([]byte, 64)
	_, n, _, _, err := x.ReadMsgUDP(make([]byte, 8), about)
	if err != nil {
		t.Fatal(err)
	}
	all, err := unix.ParseSocketControlMessage(about[:n])
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	return int(binary.NativeEndian.Uint32(all[0].Data))
}

func echoRequest() []byte {
	m := header.ICMPv4(make([]byte, header.ICMPv4MinimumSize+8))
	m.SetType(header.ICMPv4Echo)
	m.SetIdent(3)
	m.SetSequence(4)
	m.SetChecksum(packet.Checksum(m, 0))
	return m
}

// What others have said about a packet before does not cost the next one: the kernel says it in the place of sending.
func TestPendingError(t *testing.T) {
	c := newClient(t, Config{})
	said := c.errorsTo()
	x, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := x.LocalAddr().(*net.UDPAddr)
	_ = x.Close()
	k := flowKey{protocol: protoUDP, client: netip.AddrPortFrom(here, 5), to: netip.AddrPortFrom(outside, at.AddrPort().Port())}
	f, err := c.exit.flows.open(k) // nobody reads of it, so the error stays
	if err != nil {
		t.Fatal(err)
	}
	if f, _ = c.exit.flows.add(f); f == nil {
		t.Fatal("there is no room")
	}
	// The reader of the flow hears it first, most of the time: so there are many.
	for range 200 {
		c.exit.flows.send(k, []byte("nobody"), 9)
		if x, err = net.ListenUDP("udp4", at); err != nil {
			t.Fatal(err)
		}
		c.exit.flows.send(k, []byte("somebody"), 9)
		_ = x.SetDeadline(time.Now().Add(patience / 10))
		b := make([]byte, 100)
		if n, err := x.Read(b); err != nil || string(b[:n]) != "somebody" {
			t.Fatalf("it was lost: %v", err)
		}
		_ = x.Close()
		ip := wait(t, said)
		m := header.ICMPv4(ip[ip.HeaderLen():])
		if m.Type() != header.ICMPv4DstUnreachable || m.Code() != header.ICMPv4PortUnreachable || ip.Src() != outside {
			t.Fatalf("%s says type %d, code %d", ip.Src(), m.Type(), m.Code())
		}
	}
	if len(said) > 0 {
		t.Errorf("%d errors more than packets that nobody took", len(said))
	}
}

// A header that was damaged is believed in nothing.
func TestDamagedHeader(t *testing.T) {
	c := newClient(t, Config{})
	port, first := heard(t)
	for _, text := range []string{"damaged", "whole"} {
		f := datagram(port, udpHeader+len(text), text)
		if text == "damaged" {
			f[proto.DataHeaderLen+8]++ // its TTL
		}
		for what, to := range map[string]router.Sender{"exit": c.exit, "device": c.Local} {
			if dropped, why := to.Send(f); (dropped == 1) != (text == "damaged") || dropped == 1 && why != router.DropExit {
				t.Errorf("%s, %s: %d are dropped, %s", what, text, dropped, why)
			}
		}
	}
	if got := first(); got != "whole" {
		t.Errorf("%q came first", got)
	}
}

// What a kernel says about packets is read as it stands there, and what it does not say is not read.
func TestParseErrors(t *testing.T) {
	c := newClient(t, Config{})
	f := &flow{flowKey: flowKey{protocol: protoUDP, to: netip.AddrPortFrom(outside, 9)}}
	message := func(kind, code byte, from [4]byte, n int) []byte {
		b := make([]byte, unix.CmsgSpace(32))
		h := b[:unix.CmsgLen(0)]
		binary.NativeEndian.PutUint64(h, uint64(unix.CmsgLen(n)))
		binary.NativeEndian.PutUint32(h[8:], unix.IPPROTO_IP)
		binary.NativeEndian.PutUint32(h[12:], unix.IP_RECVERR)
		d := b[unix.CmsgLen(0):]
		d[4], d[5], d[6] = unix.SO_EE_ORIGIN_ICMP, kind, code
		binary.NativeEndian.PutUint16(d[16:], unix.AF_INET)
		copy(d[20:], from[:])
		return b
	}
	router, inside := [4]byte{198, 51, 100, 1}, [4]byte{127, 0, 0, 1}
	for name, tt := range map[string]struct {
		b    []byte
		ok   bool
		from string
	}{
		"a router":          {message(11, 0, router, 32), true, "198.51.100.1"},
		"the alias":         {message(3, 3, inside, 32), true, outside.String()},
		"this host":         {message(3, 1, [4]byte{127, 0, 0, 9}, 32), true, "invalid IP"},
		"too long":          {message(3, 4, router, 32), false, "198.51.100.1"},
		"source quench":     {message(4, 0, router, 32), false, "198.51.100.1"},
		"shorter than that": {message(11, 0, router, 16), false, "invalid IP"},
		"nothing":           {nil, false, "invalid IP"},
		"half a header":     {message(11, 0, router, 32)[:10], false, "invalid IP"},
	} {
		if said, ok := c.exit.flows.parse(f, tt.b); ok != tt.ok || said.from.String() != tt.from {
			t.Errorf("%s: %v, %+v", name, ok, said)
		}
	}
}

// Who routes a network is one client, however many addresses there are in it.
func TestSiteIsOneClient(t *testing.T) {
	c := newClient(t, Config{Conns: 10, Flows: 4, ClientDials: 3})
	c.exit.KnowOwners(func(a netip.Addr) netip.Addr {
		if netip.MustParsePrefix("192.168.7.0/24").Contains(a) {
			return mute
		}
		return a
	})
	behind := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 7, byte(i)}) }
	x := c.mustDialUDP(udpEcho(t))
	c.ask(x, "x")
	for i := range 20 {
		port, _ := heard(t)
		c.exit.Send(from(datagram(port, udpHeader+1, "x"), behind(i), 64))
	}
	c.exit.flows.mu.Lock()
	own, site := len(c.exit.flows.of.of[here].all), len(c.exit.flows.of.of[mute].all)
	c.exit.flows.mu.Unlock()
	if own != 1 || site != 3 {
		t.Errorf("%d flows of who has one, %d of the site, want 1 and 3", own, site)
	}
	hung := hang(t)
	for i := range 10 {
		c.exit.Send(from(syn(hung), behind(i), 64))
	}
	if n := c.exit.attempts(); n != 3 {
		t.Errorf("%d attempts of one client, want 3", n)
	}
	if n := c.exit.Stats().Dials; n != 7 {
		t.Errorf("%d SYNs are counted, want 7", n)
	}
	if _, err := c.connect(hung, 100*time.Millisecond); isRefused(err) || err == nil {
		t.Error(err)
	}
	if n := c.exit.attempts(); n != 4 {
		t.Errorf("%d attempts, want one more, of another", n)
	}
	if _, err := c.exit.Dial(t.Context(), "tcp", netip.AddrPortFrom(gateway, 1)); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Error(err)
	}
}
