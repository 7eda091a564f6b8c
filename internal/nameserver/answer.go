package nameserver

import (
	"bytes"
	"context"
	"net/netip"

	"github.com/miekg/dns"
)

// A far question is one for others.
type far struct {
	msg     *dns.Msg // what was asked
	query   []byte   // the same, as it came
	group   *group
	servers []netip.AddrPort
	limit   int // bytes of an answer by UDP
}

// answer returns the answer to a message, or whom to ask; neither: it deserves none. whole: there is room for all of it, as by TCP. It keeps nothing of b.
func (s *Server) answer(b []byte, client netip.Addr, whole bool) (reply []byte, _ *far) {
	if len(b) < headerLen || b[2]&bitQR != 0 { // an answer to an answer would go on forever
		s.count.malformed.Add(1)
		return nil, nil
	}
	m := new(dns.Msg)
	if question(b) == nil || m.Unpack(b) != nil || len(m.Question) != 1 {
		s.count.malformed.Add(1)
		return headed(b, dns.RcodeFormatError), nil
	}
	opt := m.IsEdns0()
	switch {
	case m.Opcode != dns.OpcodeQuery:
		return s.refuse(m, dns.RcodeNotImplemented), nil
	case opt != nil && opt.Version() != 0:
		return s.refuse(m, dns.RcodeBadVers), nil
	case m.Question[0].Qclass != dns.ClassINET, m.Question[0].Qtype == dns.TypeAXFR, m.Question[0].Qtype == dns.TypeIXFR:
		return s.refuse(m, dns.RcodeRefused), nil
	}
	t := s.table.Load()
	if f, known := s.find(t, m.Question[0]); known {
		s.count.local.Add(1)
		return s.local(m, f, whole), nil
	}
	g := t.group(dns.CanonicalName(m.Question[0].Name))
	servers := g.except(client)
	if len(servers) == 0 || client == s.c.Gateway {
		return s.refuse(m, dns.RcodeRefused), nil
	}
	query := bytes.Clone(b)
	limit := clampSize(query)
	return nil, &far{msg: m, query: query, group: g, servers: servers, limit: limit}
}

// headed returns an answer to what has a header and nothing else that makes sense.
func headed(b []byte, rcode byte) []byte {
	reply := make([]byte, headerLen)
	copy(reply, b[:2])
	reply[2] = b[2]&0x79 | bitQR // opcode and RD as they were
	reply[3] = rcode
	return reply
}

// local makes an answer of what is known.
func (s *Server) local(m *dns.Msg, f finding, whole bool) []byte {
	r := reply(m, dns.RcodeSuccess)
	r.Authoritative = true
	r.Answer = f.records
	if f.missing {
		r.Rcode = dns.RcodeNameError
	}
	if len(f.records) == 0 && f.zone != "" {
		r.Ns = append(r.Ns, s.soa(f.zone, f.zone))
	}
	size := udpMin
	switch opt := m.IsEdns0(); {
	case whole:
		size = tcpMax
	case opt != nil:
		size = min(max(int(opt.UDPSize()), udpMin), udpMax)
	}
	r.Truncate(size)
	return pack(r)
}

func (s *Server) refuse(m *dns.Msg, rcode int) []byte {
	s.count.refused.Add(1)
	return pack(reply(m, rcode))
}

// reply returns an answer without records.
func reply(m *dns.Msg, rcode int) *dns.Msg {
	r := new(dns.Msg).SetReply(m)
	r.RecursionAvailable = true
	r.Rcode = rcode
	if opt := m.IsEdns0(); opt != nil {
		r.SetEdns0(udpMax, opt.Do())
	}
	return r
}

// pack returns the bytes of an answer. Names that came in a message fit into one.
func pack(r *dns.Msg) []byte {
	b, err := r.Pack()
	if err != nil {
		return nil
	}
	return b
}

// fetch asks others. Whatever goes wrong there is an answer: that it has.
func (s *Server) fetch(ctx context.Context, q *far, whole bool) []byte {
	s.count.forwarded.Add(1)
	b, err := s.ask(ctx, q.group, q.servers, q.query, whole)
	if b != nil {
		return b
	}
	s.count.failed.Add(1)
	s.c.Log.Debug("question not answered", "name", q.msg.Question[0].Name, "servers", q.servers, "err", err)
	r := reply(q.msg, dns.RcodeServerFailure)
	if opt := r.IsEdns0(); opt != nil { // RFC 8914
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNoReachableAuthority, ExtraText: "no name server of this gateway has answered"})
	}
	return pack(r)
}
