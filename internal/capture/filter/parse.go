package filter

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// MaxLen is the longest expression in bytes, and maxDepth how deep its parentheses may go.
const (
	MaxLen   = 4096
	maxDepth = 64
)

// An Error says where an expression makes no sense.
type Error struct {
	At   int // characters before the place
	Near string
	Text string
}

// Error names the place.
func (e *Error) Error() string {
	if e.Near == "" {
		return fmt.Sprintf("filter: at its end: %s", e.Text)
	}
	return fmt.Sprintf("filter: character %d, at %.40q: %s", e.At+1, e.Near, e.Text)
}

// Parse compiles an expression. An empty one matches all.
func Parse(text string) (f Filter, err error) {
	if len(text) > MaxLen {
		return f, fmt.Errorf("filter: %d bytes, more than %d", len(text), MaxLen)
	}
	p := parser{tokens: scan(text), end: len(text)}
	defer func() { // the one way out of the recursion
		switch e := recover().(type) {
		case nil:
		case *Error:
			f, err = Filter{}, e
		default:
			panic(e)
		}
	}()
	if len(p.tokens) == 0 {
		return f, nil
	}
	f.root = p.expression(nil).n
	if !p.done() {
		p.fail("'and' or 'or' is expected")
	}
	return f, nil
}

// A token is a word, or a sign.
type token struct {
	text string
	at   int
}

// scan finds the tokens. A sign that means nothing is one, too.
func scan(s string) (all []token) {
	for i := 0; i < len(s); {
		n := 1
		switch {
		case strings.IndexByte(" \t\r\n", s[i]) >= 0:
			i++
			continue
		case strings.HasPrefix(s[i:], "&&"), strings.HasPrefix(s[i:], "||"):
			n = 2
		case isWord(s[i]):
			for i+n < len(s) && isWord(s[i+n]) {
				n++
			}
		}
		all = append(all, token{s[i : i+n], i})
		i += n
	}
	return all
}

func isWord(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte(`._:/-\`, b) >= 0
}

// A parser goes through the tokens once. What makes no sense ends it by a panic with an *Error.
type parser struct {
	tokens []token
	end    int // of the text
	depth  int
}

func (p *parser) done() bool { return len(p.tokens) == 0 }

// next returns the token that is next; "" at the end.
func (p *parser) next() string {
	if p.done() {
		return ""
	}
	return p.tokens[0].text
}

// take takes the next token, if it is one of these.
func (p *parser) take(words ...string) bool {
	for _, w := range words {
		if p.next() == w {
			p.tokens = p.tokens[1:]
			return true
		}
	}
	return false
}

func (p *parser) fail(format string, args ...any) {
	at, near := p.end, p.next()
	if !p.done() {
		at = p.tokens[0].at
	}
	panic(&Error{at, near, fmt.Sprintf(format, args...)})
}

func (p *parser) deeper() {
	if p.depth++; p.depth > maxDepth {
		p.fail("more than %d levels", maxDepth)
	}
}

// A kind is what a value stands for.
type kind struct {
	protocol string // "": any
	dir      direction
	what     string // host, net, port, portrange, proto; "": it was not said
}

// A part is a node, and what a value that follows would stand for: nil, none may.
type part struct {
	n node
	k *kind
}

// expression parses parts that "and" and "or" join. k is what stands before it says.
func (p *parser) expression(k *kind) part {
	left := p.operand(k)
	for {
		switch {
		case p.take("and", "&&"):
			right := p.operand(left.k)
			left = part{and{left.n, right.n}, right.k}
		case p.take("or", "||"):
			right := p.operand(left.k)
			left = part{or{left.n, right.n}, right.k}
		default:
			return left
		}
	}
}

// operand parses a term, or a value of the kind that the one before it had.
func (p *parser) operand(k *kind) part {
	if k != nil && p.isValue() {
		return part{p.value(*k), k}
	}
	return p.term(k)
}

// isValue tells whether an address or a number is next.
func (p *parser) isValue() bool {
	t := p.next()
	return t != "" && '0' <= t[0] && t[0] <= '9'
}

func (p *parser) term(k *kind) part {
	p.deeper()
	defer func() { p.depth-- }()
	switch {
	case p.take("not", "!"):
		t := p.operand(k)
		return part{not{t.n}, t.k}
	case p.take("("):
		t := p.expression(k)
		if !p.take(")") {
			p.fail("')' is missing")
		}
		return part{t.n, k}
	case p.take("less"):
		return part{length{0, p.number(math.MaxInt32)}, nil}
	case p.take("greater"):
		return part{length{p.number(math.MaxInt32), math.MaxInt}, nil}
	}
	return p.primitive()
}

// primitive parses what says itself what it is about.
func (p *parser) primitive() part {
	var k kind
	at := p.tokens
	if name := p.next(); name == "ip" || protocols[name] != 0 {
		k.protocol = name
		p.tokens = p.tokens[1:]
	}
	directed := p.direction(&k)
	switch t := p.next(); t {
	case "host", "net", "port", "portrange", "proto":
		k.what = t
		p.tokens = p.tokens[1:]
	}
	switch {
	case directed && k.what == "proto":
		p.fail("a protocol has no direction")
	case k.what != "" || directed:
		p.agree(at, k)
		return part{p.values(k), &k}
	case k.protocol == "ip":
		return part{every{}, nil}
	case k.protocol != "":
		return part{protocol(protocols[k.protocol]), nil}
	case p.isValue():
		return part{p.value(k), &k}
	case p.done():
		p.fail("something is missing")
	}
	p.fail("not known here: host, net, port, portrange, proto, src, dst, less, greater, and the names of protocols are")
	panic("unreachable")
}

// agree checks that a protocol has what is asked of it.
func (p *parser) agree(at []token, k kind) {
	ports := k.what == "port" || k.what == "portrange"
	switch k.protocol {
	case "", "tcp", "udp", "sctp":
		if k.protocol == "" || ports {
			return
		}
	case "ip":
		if !ports {
			return
		}
	}
	what := k.what
	if what == "" {
		what = "host"
	}
	p.tokens = at
	p.fail("%s has no %s", k.protocol, what)
}

// direction parses one, if there is one.
func (p *parser) direction(k *kind) bool {
	switch {
	case p.take("src"):
		k.dir = source
	case p.take("dst"):
		k.dir = destination
	default:
		return false
	}
	other := "dst"
	if k.dir == destination {
		other = "src"
	}
	if len(p.tokens) >= 2 && p.tokens[1].text == other {
		switch p.next() {
		case "or", "||":
			k.dir = either
		case "and", "&&":
			k.dir = both
		default:
			return true
		}
		p.tokens = p.tokens[2:]
	}
	return true
}

// values parses a value, or several in parentheses.
func (p *parser) values(k kind) node {
	p.deeper()
	defer func() { p.depth-- }()
	switch {
	case p.take("not", "!"):
		return not{p.values(k)}
	case !p.take("("):
		return p.value(k)
	}
	n := p.values(k)
	for {
		switch {
		case p.take("and", "&&"):
			n = and{n, p.values(k)}
		case p.take("or", "||"):
			n = or{n, p.values(k)}
		case p.take(")"):
			return n
		default:
			p.fail("')' is missing")
		}
	}
}

func (p *parser) value(k kind) node {
	switch k.what {
	case "port":
		n := uint16(p.number(math.MaxUint16))
		return portRange{k.dir, protocols[k.protocol], n, n}
	case "portrange":
		return p.portRange(k)
	case "proto":
		if n := protocols[strings.TrimPrefix(p.next(), `\`)]; n != 0 {
			p.tokens = p.tokens[1:]
			return protocol(n)
		}
		return protocol(p.number(math.MaxUint8))
	}
	return p.network(k)
}

func (p *parser) number(most int) int {
	n, err := strconv.ParseUint(p.next(), 10, 31)
	if err != nil || int(n) > most {
		p.fail("a number of 0 to %d is expected", most)
	}
	p.tokens = p.tokens[1:]
	return int(n)
}

func (p *parser) portRange(k kind) node {
	low, high, ok := strings.Cut(p.next(), "-")
	a, errA := strconv.ParseUint(low, 10, 16)
	b, errB := strconv.ParseUint(high, 10, 16)
	if !ok || errA != nil || errB != nil {
		p.fail("two ports are expected, as 8000-8080")
	}
	p.tokens = p.tokens[1:]
	return portRange{k.dir, protocols[k.protocol], uint16(min(a, b)), uint16(max(a, b))}
}

// network parses an address or a net. One octet, two or three are the net that begins so.
func (p *parser) network(k kind) node {
	text, after, slash := strings.Cut(p.next(), "/")
	octets := strings.Count(text, ".") + 1
	a, err := netip.ParseAddr(text + strings.Repeat(".0", max(0, 4-octets)))
	switch {
	case err == nil && !a.Is4(), strings.Contains(text, ":"):
		p.fail("IPv6 is not carried")
	case err != nil, octets == 1 && k.what != "net":
		p.fail("an IPv4 address is expected; names are not looked up here (for the name of a device there is --peer)")
	}
	length := 8 * octets
	if slash {
		n, err := strconv.ParseUint(after, 10, 8)
		switch {
		case err != nil || n > 32:
			p.fail("a length of 0 to 32 is expected behind the slash")
		case k.what == "host":
			p.fail("a host has no slash: net is meant")
		}
		length = int(n)
	}
	b := a.As4()
	n := network{dir: k.dir, addr: uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]), mask: mask(length)}
	at := p.tokens
	p.tokens = p.tokens[1:]
	if k.what == "net" && !slash && p.take("mask") {
		n.mask = p.mask()
	}
	if n.addr&^n.mask != 0 {
		p.tokens = at
		p.fail("there are bits behind the net")
	}
	return n
}

// mask returns the netmask of a length.
func mask(length int) uint32 { return ^uint32(0) << (32 - length) }

func (p *parser) mask() uint32 {
	a, err := netip.ParseAddr(p.next())
	if err != nil || !a.Is4() {
		p.fail("a netmask is expected, as 255.255.0.0")
	}
	b := a.As4()
	m := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	if m != mask(bits.LeadingZeros32(^m)) {
		p.fail("a netmask has all its ones in front")
	}
	p.tokens = p.tokens[1:]
	return m
}
