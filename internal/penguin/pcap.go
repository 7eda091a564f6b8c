package penguin

import (
	"encoding/binary"
	"net/netip"
	"time"

	"ferry/internal/capture/pcap"
	"ferry/internal/packet"
	"ferry/internal/penguin/wire"
)

// A capture is a pcap file of version 2.4, big-endian, with microseconds. It has packets that nobody has sent, as the original makes them: a handshake where a
// connection opens, segments with what has passed, without ACK, and FINs where it ends. Numbers begin with 0. The client has the address that the guest sees, and
// its own port.

// maxPayload is what fits into a record behind the headers of IPv6 and TCP, in bytes.
const maxPayload = pcap.MaxSnaplen - ethernetLen - 40 - 20

// ethernetLen is the length of the header of a frame in bytes.
const ethernetLen = 14

// The hardware addresses of both ends: "HOST" and "GUEST".
var (
	hostMAC  = [6]byte{0x48, 0x4f, 0x53, 0x54}
	guestMAC = [6]byte{0x47, 0x55, 0x45, 0x53, 0x54}
)

// Flags of TCP (RFC 9293, section 3.1).
const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagACK = 1 << 4
)

// packets writes the packets of an event.
func (w *recorder) packets(e event, b []byte) {
	w.buf = w.buf[:0]
	r := e.r
	switch {
	case r.p.Transport == wire.UDP:
		if e.what == toGuest || e.what == fromGuest {
			w.packet(e, e.what == toGuest, 0, b)
		}
	case e.what == opened:
		w.packet(e, true, flagSYN, nil)
		w.packet(e, false, flagSYN|flagACK, nil)
		w.packet(e, true, flagACK, nil)
	case e.what == ended:
		w.packet(e, true, flagFIN, nil)
		w.packet(e, false, flagFIN|flagACK, nil)
		w.packet(e, true, flagACK, nil)
	default:
		for len(b) > 0 {
			n := min(len(b), maxPayload)
			w.packet(e, e.what == toGuest, 0, b[:n])
			b = b[n:]
		}
	}
	w.put(&w.capture, w.buf)
}

// packet appends a packet to what is to be written.
func (w *recorder) packet(e event, up bool, flags uint8, payload []byte) {
	r := e.r
	s := segment{src: r.client, dst: r.p.Guest, srcMAC: hostMAC, dstMAC: guestMAC, transport: r.p.Transport, flags: flags, payload: payload}
	seq, ack := &r.seq, &r.reply
	if !up {
		s.src, s.dst, s.srcMAC, s.dstMAC = s.dst, s.src, s.dstMAC, s.srcMAC
		seq, ack = ack, seq
	}
	s.seq = *seq
	if flags&flagACK != 0 {
		s.ack = *ack
	}
	*seq += uint32(len(payload))
	if flags&(flagSYN|flagFIN) != 0 {
		*seq++
	}
	w.buf = s.appendRecord(w.buf, e.at)
}

// A segment is one packet of a capture.
type segment struct {
	src, dst       netip.AddrPort
	srcMAC, dstMAC [6]byte
	transport      wire.Transport
	seq, ack       uint32
	flags          uint8
	payload        []byte
}

// appendRecord appends the segment with the header of a record.
func (s *segment) appendRecord(b []byte, at time.Time) []byte {
	whole := s.frameLen()
	captured := min(whole, pcap.MaxSnaplen) // only a datagram can be longer
	b = pcap.Ethernet.AppendRecordHeader(b, at, captured, whole)
	end := len(b) + captured
	return s.appendFrame(b)[:end]
}

// headers are the lengths of those of IP and of what is inside.
func (s *segment) headers() (ip, inner int) {
	ip, inner = 40, 20
	if s.dst.Addr().Is4() {
		ip = 20
	}
	if s.transport == wire.UDP {
		inner = 8
	}
	return ip, inner
}

func (s *segment) frameLen() int {
	ip, inner := s.headers()
	return ethernetLen + ip + inner + len(s.payload)
}

// Protocols of IP.
const (
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
)

func (s *segment) appendFrame(b []byte) []byte {
	protocol := uint8(protoTCP)
	if s.transport == wire.UDP {
		protocol = protoUDP
	}
	_, header := s.headers()
	n := header + len(s.payload)
	b = append(append(b, s.dstMAC[:]...), s.srcMAC[:]...)
	ip := len(b) + 2
	if s.dst.Addr().Is4() {
		b = append(b, 0x08, 0x00)
		b = appendIPv4(b, s.src.Addr(), s.dst.Addr(), protocol, n)
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
		b = append(b, protocol, 64)
		b = append(append(b, s.src.Addr().AsSlice()...), s.dst.Addr().AsSlice()...)
	}
	at, sum := len(b), 16
	b = binary.BigEndian.AppendUint16(b, s.src.Port())
	b = binary.BigEndian.AppendUint16(b, s.dst.Port())
	if protocol == protoTCP {
		b = binary.BigEndian.AppendUint32(b, s.seq)
		b = binary.BigEndian.AppendUint32(b, s.ack)
		b = append(b, 5<<4, s.flags, 0, 0, 0, 0, 0, 0)
	} else {
		sum = 6
		b = binary.BigEndian.AppendUint16(b, uint16(n))
		b = append(b, 0, 0)
	}
	b = append(b, s.payload...)
	check := packet.Checksum(b[at:], packet.PseudoSum(b[ip:at], protocol, n))
	if check == 0 && protocol == protoUDP {
		check = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(b[at+sum:], check)
	return b
}

// appendIPv4 appends a header before n bytes.
func appendIPv4(b []byte, src, dst netip.Addr, protocol uint8, n int) []byte {
	at := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(20+n))
	b = append(b, 0, 0, 0x40, 0, 64, protocol, 0, 0) // may not be fragmented
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[at+10:], packet.Checksum(b[at:], 0))
	return b
}
