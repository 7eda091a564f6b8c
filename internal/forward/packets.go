package forward

import (
	"errors"
	"net"
	"net/netip"
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
	l PacketConn

	flows *relay.Flows[flowKey]
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

func (f *Forward) listenUDP(e Entrance) error {
	l, err := f.c.Network.ListenPacket(f.ctx, e.address())
	if err != nil {
		return err
	}
	if s, ok := l.(syscall.Conn); ok {
		if err := askLocal(s); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	f.bound = e.at(addrPort(l.LocalAddr()).Port())
	d := &packetDoor{Forward: f, l: l}
	d.flows = relay.NewFlows(relay.FlowConfig[flowKey]{
		Max: f.c.Flows, Idle: f.c.FlowIdle, Dial: d.far, Reply: d.reply,
		Waits: func(flowKey) bool { return f.spec.To.Name != "" && f.c.Resolve == nil }, // a lookup
		Made:  func() { f.total.Add(1) }, Full: func() { f.full.Add(1) }, Sent: func(n int) { f.up.Add(uint64(n)) },
	})
	f.door = d
	return nil
}

// askLocal asks the kernel to say which address a datagram was for. A socket has one family, and the option of the other fails.
func askLocal(l syscall.Conn) error {
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

func (d *packetDoor) live() int { return d.flows.Live() }

func (d *packetDoor) close() {
	_ = d.l.Close()
	d.flows.Close()
}

// far makes the socket of a flow.
func (d *packetDoor) far(k flowKey) (net.Conn, error) {
	c, err := d.dial("udp", k.source)
	if err != nil {
		d.log.Debug("dial", "peer", k.source, "err", err)
	}
	return c, err
}

// reply sends a datagram to the source of a flow, from the address that it has asked.
func (d *packetDoor) reply(k flowKey, _ net.Conn, b []byte) error {
	n, _, err := d.l.WriteMsgUDPAddrPort(b, k.local.b[:k.local.n], k.source)
	d.down.Add(uint64(n))
	return err
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
		d.flows.Send(flowKey{source, parseLocal(oob[:oobn])}, b[:n])
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
