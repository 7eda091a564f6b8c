package proto

import (
	"encoding/binary"
	"net/netip"
)

// What a publish frame carries.
const (
	MaxServices    = 64
	MaxServiceName = 32 // bytes
)

// A PublishMessage is all that a device publishes: what is not in it any more is withdrawn. So it may be sent
// again at any time, and by any path of a session.
type PublishMessage struct {
	Serial   uint64 // of the list: one with a lower one was overtaken on the way. At most MaxNumber
	Services []Service
}

// A Service is a socket of a device by which others are served.
type Service struct {
	UDP  bool       // else TCP
	At   uint16     // the port of the device's address in the tunnel where it is reached
	Addr netip.Addr // to which the socket is bound: 0.0.0.0 and :: are all of the device's
	Port uint16     // to which the socket is bound
	Name string     // of its program; empty: not known
}

// Protocol returns tcp or udp, as package net has it.
func (s Service) Protocol() string {
	if s.UDP {
		return "udp"
	}
	return "tcp"
}

// AppendPublish appends a publish frame: its type (1), serial (8), and of each service protocol (1: 6 or 17), port in the
// tunnel (2), port (2), length of the address (1: 4 or 16), address, length of the name (1), name. Of more than
// MaxServices the rest is left out, and names are cut.
func AppendPublish(b []byte, m PublishMessage) []byte {
	p := appendUint64([]byte{morePublish}, m.Serial)
	for _, s := range m.Services[:min(len(m.Services), MaxServices)] {
		protocol := byte(6)
		if s.UDP {
			protocol = 17
		}
		p = binary.BigEndian.AppendUint16(append(p, protocol), s.At)
		p = binary.BigEndian.AppendUint16(p, s.Port)
		addr := s.Addr.AsSlice()
		p = append(append(p, byte(len(addr))), addr...)
		name := s.Name[:min(len(s.Name), MaxServiceName)]
		p = append(append(p, byte(len(name))), name...)
	}
	return appendFrame(b, typeMore, p)
}

// ParsePublish reads a whole publish frame. Names are fit for a log.
func ParsePublish(frame []byte) (m PublishMessage, err error) {
	p := Payload(frame)
	if len(p) < 9 || p[0] != morePublish || !parseNumber(p[1:9], &m.Serial) {
		return PublishMessage{}, ErrMessage
	}
	for p = p[9:]; len(p) > 0; {
		s, n := parseService(p)
		if n == 0 || len(m.Services) == MaxServices {
			return PublishMessage{}, ErrMessage
		}
		m.Services = append(m.Services, s)
		p = p[n:]
	}
	return m, nil
}

// parseService reads the service at the start of b, and returns its length; 0: it is none.
func parseService(b []byte) (s Service, n int) {
	const head = 6
	if len(b) < head || b[0] != 6 && b[0] != 17 {
		return s, 0
	}
	s.UDP, s.At, s.Port = b[0] == 17, binary.BigEndian.Uint16(b[1:]), binary.BigEndian.Uint16(b[3:])
	n = head + int(b[5])
	if len(b) <= n || s.At == 0 || s.Port == 0 {
		return s, 0
	}
	addr, ok := netip.AddrFromSlice(b[head:n])
	length := int(b[n])
	if n++; !ok || addr.Is4In6() || length > MaxServiceName || len(b)-n < length {
		return s, 0
	}
	s.Addr, s.Name = addr, Printable(string(b[n:n+length]))
	return s, n + length
}
