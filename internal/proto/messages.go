package proto

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrMessage is returned for a config, hello or goodbye frame whose fields do not fit into it.
var ErrMessage = errors.New("malformed fields in an extension frame")

// A Token proves that a client held a lease before. It is chosen by the gateway.
type Token [16]byte

// PushedConfig is what a gateway tells a client. A field that the gateway left out is zero.
type PushedConfig struct {
	Prefix  netip.Prefix   // the client's address with the length of the pool's prefix
	Gateway netip.Addr     // the gateway inside the tunnel
	MTU     int            // of the client's TUN, bytes
	Routes  []netip.Prefix // to send into the tunnel; at most MaxRoutes are sent
	Token   Token          // for HelloMessage after a lost connection
	Idle    time.Duration  // silence after which the gateway drops the client; whole seconds on the wire
	NextKey [32]byte       // pin of the key that the gateway will have next
	DNS     []netip.Addr   // name servers; at most MaxDNS are sent
	Domains []string       // that they know best; none of them contains a space; MaxDomains bytes in all
	Session SessionID      // for AttachMessage; zero: none
	// Carriers are the URLs by which the gateway can be reached, without its host: udp://:2002. MaxCarriers bytes in all.
	Carriers []string
}

// What one config frame can carry.
const (
	MaxRoutes   = 512
	MaxDNS      = 8
	MaxDomains  = 1024 // bytes, with a space between two
	MaxCarriers = 1024 // bytes, with a space between two
)

// HelloMessage is what a client says about itself.
type HelloMessage struct {
	Name   string     // at most 63 bytes
	Resume netip.Addr // address held before; invalid: none
	Token  Token      // with Resume
}

// A field is type (1 byte), length (2 bytes, big endian), value. Unknown types are skipped.
const (
	configPrefix = 1 + iota
	configGateway
	configMTU
	configRoutes
	configToken
	configIdle
	configNextKey
	configDNS
	configDomains
	configSession
	configCarriers
)

const (
	helloName = 1 + iota
	helloResume
)

// AppendConfig appends a config frame.
func AppendConfig(b []byte, c PushedConfig) []byte {
	var p []byte
	if c.Prefix.IsValid() {
		p = appendField(p, configPrefix, appendPrefix(nil, c.Prefix))
	}
	if c.Gateway.IsValid() {
		p = appendField(p, configGateway, c.Gateway.AsSlice())
	}
	if c.MTU != 0 {
		p = appendField(p, configMTU, binary.BigEndian.AppendUint16(nil, uint16(c.MTU)))
	}
	if len(c.Routes) > 0 {
		var routes []byte
		for _, r := range c.Routes[:min(len(c.Routes), MaxRoutes)] {
			routes = appendPrefix(routes, r)
		}
		p = appendField(p, configRoutes, routes)
	}
	if c.Token != (Token{}) {
		p = appendField(p, configToken, c.Token[:])
	}
	if c.Idle != 0 {
		p = appendField(p, configIdle, binary.BigEndian.AppendUint16(nil, uint16(c.Idle/time.Second)))
	}
	if c.NextKey != [32]byte{} {
		p = appendField(p, configNextKey, c.NextKey[:])
	}
	if len(c.DNS) > 0 {
		var servers []byte
		for _, a := range c.DNS[:min(len(c.DNS), MaxDNS)] {
			servers = append(servers, a.AsSlice()...)
		}
		p = appendField(p, configDNS, servers)
	}
	if domains := strings.Join(c.Domains, " "); domains != "" && len(domains) <= MaxDomains {
		p = appendField(p, configDomains, []byte(domains))
	}
	if c.Session != (SessionID{}) {
		p = appendField(p, configSession, c.Session[:])
	}
	if carriers := strings.Join(c.Carriers, " "); carriers != "" && len(carriers) <= MaxCarriers {
		p = appendField(p, configCarriers, []byte(carriers))
	}
	return appendFrame(b, typeConfig, p)
}

// ParseConfig reads a whole config frame.
func ParseConfig(frame []byte) (c PushedConfig, err error) {
	err = eachField(Payload(frame), func(t byte, v []byte) bool {
		switch t {
		case configPrefix:
			return parsePrefix(v, &c.Prefix)
		case configGateway:
			return parseAddr(v, &c.Gateway)
		case configMTU:
			n, ok := parseUint16(v)
			c.MTU = int(n)
			return ok
		case configRoutes:
			for ; len(v) >= 5; v = v[5:] {
				var r netip.Prefix
				if !parsePrefix(v[:5], &r) {
					return false
				}
				c.Routes = append(c.Routes, r)
			}
			return len(v) == 0
		case configToken:
			return copy(c.Token[:], v) == len(c.Token) && len(v) == len(c.Token)
		case configIdle:
			n, ok := parseUint16(v)
			c.Idle = time.Duration(n) * time.Second
			return ok
		case configNextKey:
			return copy(c.NextKey[:], v) == len(c.NextKey) && len(v) == len(c.NextKey)
		case configDNS:
			for ; len(v) >= 4; v = v[4:] {
				c.DNS = append(c.DNS, netip.AddrFrom4([4]byte(v)))
			}
			return len(v) == 0
		case configDomains:
			c.Domains = strings.Fields(string(v))
		case configSession:
			return copy(c.Session[:], v) == len(c.Session) && len(v) == len(c.Session)
		case configCarriers:
			c.Carriers = strings.Fields(string(v))
			return len(v) <= MaxCarriers
		}
		return true
	})
	return c, err
}

// AppendHello appends a hello frame.
func AppendHello(b []byte, h HelloMessage) []byte {
	var p []byte
	if h.Name != "" {
		p = appendField(p, helloName, []byte(h.Name))
	}
	if h.Resume.IsValid() {
		addr := h.Resume.As4()
		p = appendField(p, helloResume, append(addr[:], h.Token[:]...))
	}
	return appendFrame(b, typeHello, p)
}

// ParseHello reads a whole hello frame.
func ParseHello(frame []byte) (h HelloMessage, err error) {
	err = eachField(Payload(frame), func(t byte, v []byte) bool {
		switch t {
		case helloName:
			h.Name = Printable(string(v))
			return len(v) <= 63
		case helloResume:
			if len(v) != 4+len(h.Token) {
				return false
			}
			h.Resume, h.Token = netip.AddrFrom4([4]byte(v)), Token(v[4:])
		}
		return true
	})
	return h, err
}

func appendField(b []byte, t byte, v []byte) []byte {
	b = append(b, t)
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...)
}

func eachField(b []byte, f func(t byte, v []byte) bool) error {
	for len(b) > 0 {
		if len(b) < 3 {
			return ErrMessage
		}
		t, n := b[0], int(binary.BigEndian.Uint16(b[1:]))
		if len(b)-3 < n || !f(t, b[3:3+n]) {
			return ErrMessage
		}
		b = b[3+n:]
	}
	return nil
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	addr := p.Addr().As4()
	return append(append(b, addr[:]...), byte(p.Bits()))
}

func parsePrefix(v []byte, p *netip.Prefix) bool {
	if len(v) != 5 {
		return false
	}
	*p = netip.PrefixFrom(netip.AddrFrom4([4]byte(v)), int(v[4]))
	return p.IsValid()
}

func parseAddr(v []byte, a *netip.Addr) bool {
	if len(v) != 4 {
		return false
	}
	*a = netip.AddrFrom4([4]byte(v))
	return true
}

func parseUint16(v []byte) (uint16, bool) {
	if len(v) != 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(v), true
}

// Printable makes text of a stranger fit for a log: no control characters, valid UTF-8, at most
// 256 bytes (exam M13).
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !isGraphic(r) {
			return '?'
		}
		return r
	}, s)
	for len(s) > 256 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// isGraphic excludes what moves a terminal's cursor or turns its text around: C0, C1 and the
// bidirectional controls of Unicode UAX #9.
func isGraphic(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return false
	case r == 0x200e, r == 0x200f, r == 0x061c, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return false
	case r == 0x2028, r == 0x2029:
		return false
	}
	return true
}
