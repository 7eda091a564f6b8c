package session

import (
	"encoding/binary"
	"net/netip"

	"ferry/internal/proto"
)

// An Ask is a complete address request.
type Ask struct {
	Static   netip.Addr     // the wanted address; invalid: any
	Hint     netip.Addr     // held before, without proof; invalid: none
	Resume   netip.Addr     // held before, proven by Token; invalid: none
	Token    proto.Token    // with Resume
	Name     string         // what the client calls itself; may be empty
	Features proto.Features // agreed upon; 0 for a 2013 client
	Extended bool           // false for a 2013 client
}

// A Server is the gateway's half. It belongs to the goroutine that reads the connection.
type Server struct {
	pool  netip.Prefix
	offer proto.Features

	request  [proto.ControlLen]byte // the one that is being answered
	ask      Ask
	awaiting bool // the hello that the request has announced
	agreed   bool // by the first request; a later one on the same connection changes nothing
}

// NewServer returns the half of a gateway that can receive what is in offer.
func NewServer(pool netip.Prefix, offer proto.Features) *Server {
	return &Server{pool: pool.Masked(), offer: offer}
}

// Request takes a request. complete is false when a hello has to follow.
func (s *Server) Request(b []byte) (ask Ask, complete bool) {
	s.request = [proto.ControlLen]byte(b)
	r := proto.ParseRequest(b)
	if !s.agreed {
		s.agreed, s.ask.Extended, s.ask.Features = true, r.Extended, r.Features&s.offer
	}
	s.ask = Ask{Static: r.Static, Extended: s.ask.Extended, Features: s.ask.Features}
	if r.Hint != 0 {
		s.ask.Hint = s.expand(r.Hint)
	}
	s.awaiting = s.ask.Extended && r.Features.Has(proto.FeatureHello)
	return s.ask, !s.awaiting
}

// Hello takes the hello that a request has announced; any other one is an error.
func (s *Server) Hello(frame []byte) (Ask, error) {
	h, err := proto.ParseHello(frame)
	if err != nil {
		return Ask{}, err
	}
	if !s.awaiting {
		return Ask{}, proto.ErrMessage
	}
	s.awaiting = false
	s.ask.Name, s.ask.Resume, s.ask.Token = h.Name, h.Resume, h.Token
	return s.ask, nil
}

// Answer appends the reply to the last request, and c if it was agreed to send it.
func (s *Server) Answer(b []byte, addr netip.Addr, c proto.PushedConfig) []byte {
	r := proto.Reply{Addr: addr, Extended: s.ask.Extended, Features: s.ask.Features}
	b = proto.AppendReply(b, s.request[:], r)
	if s.ask.Features.Has(proto.FeatureConfig) {
		b = proto.AppendConfig(b, c)
	}
	return b
}

// expand makes an address of the pool from its low 16 bits.
func (s *Server) expand(low uint16) netip.Addr {
	base := s.pool.Addr().As4()
	mask := ^uint32(0) >> s.pool.Bits()
	a := binary.BigEndian.Uint32(base[:]) | uint32(low)&mask
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}
