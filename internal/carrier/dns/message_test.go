package dns

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

var example = newZone("t.example.org")

// What goes into a name comes out of it, in whatever case it comes back, and never from a part of it.
func TestNames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	parts, taken := 0, 0
	for _, z := range []*zone{example, newZone("a.b"), newZone(strings.Repeat("long.", 15) + "zone")} {
		for n := range z.maxUp() + 1 {
			q := query{client: r.Uint64() & clientMask, number: r.Uint32(), data: make([]byte, n), test: n == 2}
			for i := range q.data {
				q.data[i] = byte(r.Uint32())
			}
			name := z.appendName(nil, q)
			if nameLen(name) != len(name) || len(name) > maxName {
				t.Fatalf("%s: %d bytes make a name of %d", z.name, n, len(name))
			}
			for i := range name { // DNS 0x20
				if 'a' <= name[i] && name[i] <= 'z' && r.IntN(2) == 0 {
					name[i] -= 'a' - 'A'
				}
			}
			got, ok := z.parseName(make([]byte, maxName), name)
			if !z.has(name) || !ok || got.client != q.client || got.number != q.number || got.test != q.test || !bytes.Equal(got.data, q.data) {
				t.Fatalf("%s: %+v becomes %+v, %v", z.name, q, got, ok)
			}
			for rest := name[1+name[0]:]; len(rest) > len(z.wire); rest = rest[1+rest[0]:] {
				parts++
				if _, ok := z.parseName(make([]byte, maxName), rest); ok {
					taken++
				}
			}
		}
		if n := z.maxUp(); n < 96 {
			t.Errorf("%s: a question carries %d bytes", z.name, n)
		}
	}
	if taken > parts/50 { // one in 256 has the right length by chance
		t.Errorf("%d of %d parts of names are taken for names", taken, parts)
	}
	if got := example.maxUp(); got != 137 {
		t.Errorf("a question below t.example.org carries %d bytes, want 137", got)
	}
}

func TestZoneHas(t *testing.T) {
	for name, want := range map[string]bool{
		"t.example.org": true, "T.eXample.ORG": true, "a.t.example.org": true, "at.example.org": false, "example.org": false, "": false, "t.example.com": false,
	} {
		if got := example.has(wireName(t, name)); got != want {
			t.Errorf("%q: got %t, want %t", name, got, want)
		}
	}
	if example.has(append([]byte{15}, example.wire...)) {
		t.Error("a label that has the bytes of the zone is in the zone")
	}
}

func wireName(t testing.TB, name string) (b []byte) {
	t.Helper()
	for label := range strings.SplitSeq(name, ".") {
		if label != "" {
			b = append(append(b, byte(len(label))), label...)
		}
	}
	return append(b, 0)
}

// ask makes a question as package dnsmessage does.
func ask(t testing.TB, name string, kind dnsmessage.Type, class dnsmessage.Class, edns int) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: class}}}
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(edns, dnsmessage.RCodeSuccess, false); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// judged is what the authority says, as package dnsmessage reads it.
func judged(t testing.TB, m []byte, stream bool) (dnsmessage.Message, verdict) {
	t.Helper()
	b, q, _, v := authority{example}.judge(nil, make([]byte, maxName), m, netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.1"), stream)
	var got dnsmessage.Message
	if v != answered {
		return got, v
	}
	if err := got.Unpack(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	if !stream && len(b) > q.size {
		t.Errorf("a question of %d bytes has an answer of %d", q.size, len(b))
	}
	return got, v
}

// What resolvers and strangers ask.
func TestAuthority(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ask     string
		kind    dnsmessage.Type
		class   dnsmessage.Class
		edns    int
		stream  bool
		verdict verdict
		code    dnsmessage.RCode
		want    string // "answer | authority"
	}{
		{"SOA", "t.example.org.", dnsmessage.TypeSOA, dnsmessage.ClassINET, 1232, true, answered, 0, "ns.t.example.org. SOA |"},
		{"NS", "T.example.ORG.", dnsmessage.TypeNS, dnsmessage.ClassINET, 0, true, answered, 0, "ns.T.example.ORG. NS |"},
		{"the name server", "ns.t.example.org.", dnsmessage.TypeA, dnsmessage.ClassINET, 1232, true, answered, 0, "192.0.2.1 A |"},
		{"the name server has no IPv6", "ns.t.example.org.", dnsmessage.TypeAAAA, dnsmessage.ClassINET, 1232, true, answered, 0, "| SOA"},
		{"SOA by UDP", "t.example.org.", dnsmessage.TypeSOA, dnsmessage.ClassINET, 1232, false, answered, 0, "truncated"},
		{"part of a name", "abcdef.t.example.org.", dnsmessage.TypeA, dnsmessage.ClassINET, 1232, false, answered, 0, "|"},
		{"part of a name by TCP", "abcdef.t.example.org.", dnsmessage.TypeA, dnsmessage.ClassINET, 1232, true, answered, 0, "| SOA"},
		{"part of a name, a text", "abcdef.t.example.org.", dnsmessage.TypeTXT, dnsmessage.ClassINET, 1232, false, answered, 0, "|"},
		{"everything", "abcdef.t.example.org.", dnsmessage.TypeALL, dnsmessage.ClassINET, 1232, false, answered, 0, "|"},
		{"a text of the zone", "t.example.org.", dnsmessage.TypeTXT, dnsmessage.ClassINET, 1232, false, answered, 0, "|"},
		{"another zone", "example.org.", dnsmessage.TypeNS, dnsmessage.ClassINET, 1232, false, answered, dnsmessage.RCodeRefused, "|"},
		{"a transfer", "t.example.org.", dnsmessage.TypeAXFR, dnsmessage.ClassINET, 0, true, answered, dnsmessage.RCodeRefused, "|"},
		{"chaos", "version.bind.", dnsmessage.TypeTXT, dnsmessage.ClassCHAOS, 0, false, answered, dnsmessage.RCodeRefused, "|"},
		{"chaos of the zone", "t.example.org.", dnsmessage.TypeTXT, dnsmessage.ClassCHAOS, 0, false, answered, dnsmessage.RCodeRefused, "|"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, v := judged(t, ask(t, tt.ask, tt.kind, tt.class, tt.edns), tt.stream)
			if v != tt.verdict || got.RCode != tt.code || told(got) != tt.want {
				t.Errorf("got %d, %v, %q; want %d, %v, %q", v, got.RCode, told(got), tt.verdict, tt.code, tt.want)
			}
			if got.Authoritative != (tt.code == 0) || !got.Response || !got.RecursionDesired || got.RecursionAvailable || got.ID != 7 {
				t.Errorf("header: %+v", got.Header)
			}
			if got.Questions[0].Name.String() != tt.ask {
				t.Errorf("asked for %q, the answer is to %q", tt.ask, got.Questions[0].Name)
			}
			if has := len(got.Additionals) == 1 && got.Additionals[0].Header.Type == dnsmessage.TypeOPT; has != (tt.edns > 0) {
				t.Errorf("EDNS: %v", got.Additionals)
			}
		})
	}
}

// told writes what a message says.
func told(m dnsmessage.Message) string {
	if m.Truncated {
		return "truncated"
	}
	var words []string
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.SOAResource:
			words = append(words, b.NS.String(), "SOA")
		case *dnsmessage.NSResource:
			words = append(words, b.NS.String(), "NS")
		case *dnsmessage.AResource:
			words = append(words, netip.AddrFrom4(b.A).String(), "A")
		default:
			words = append(words, r.GoString())
		}
	}
	words = append(words, "|")
	for _, r := range m.Authorities {
		words = append(words, strings.TrimPrefix(r.Header.Type.String(), "Type"))
	}
	return strings.Join(words, " ")
}

// What is no question of DNS as it should be.
func TestMalformed(t *testing.T) {
	good := ask(t, "t.example.org.", dnsmessage.TypeSOA, dnsmessage.ClassINET, 1232)
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	const edns = 12 + 15 + 4 + 1 + 4
	for _, tt := range []struct {
		name    string
		message []byte
		verdict verdict
		code    int
	}{
		{"nothing", nil, silent, 0},
		{"less than a header", good[:11], silent, 0},
		{"an answer", change(2, 0x80), silent, 0},
		{"an update", change(2, 5<<3), answered, codeUnknown},
		{"a header alone", good[:12], answered, codeFormat},
		{"no question", change(4, 0, 0), answered, codeFormat},
		{"two questions", change(4, 0, 2), answered, codeFormat},
		{"an answer in the question", change(6, 0, 1), answered, codeFormat},
		{"a name that leads elsewhere", change(12, 0xc0, 12), answered, codeFormat},
		{"a name without an end", good[:20], answered, codeFormat},
		{"a name that is cut", good[:29], answered, codeFormat},
		{"EDNS that is cut", good[:len(good)-1], answered, codeFormat},
		{"another version of EDNS", change(edns, 0, 1), answered, codeVersions},
	} {
		b, q, _, v := authority{example}.judge(nil, make([]byte, maxName), tt.message, netip.Addr{}, netip.Addr{}, false)
		if v != tt.verdict || len(b) > len(tt.message) {
			t.Errorf("%s: got %d and %d bytes for %d", tt.name, v, len(b), len(tt.message))
		}
		if v != answered {
			continue
		}
		var p dnsmessage.Parser
		h, err := p.Start(b)
		code := int(h.RCode)
		if q.version > 0 {
			code |= int(b[len(b)-6]) << 4
		}
		if err != nil || code != tt.code {
			t.Errorf("%s: code %d, %v; want %d", tt.name, code, err, tt.code)
		}
	}
}

// Texts of every length come back as they were, and as package dnsmessage reads them.
func TestTexts(t *testing.T) {
	all := bytes.Repeat([]byte("0123456789\x00\xff"), 100)
	for _, edns := range []int{0, 1232} {
		name := example.appendName(nil, query{client: 1, number: 2, data: make([]byte, example.maxUp())})
		m := ask(t, textName(name), dnsmessage.TypeTXT, dnsmessage.ClassINET, edns)
		_, q, _, v := authority{example}.judge(nil, make([]byte, maxName), m, netip.Addr{}, netip.Addr{}, false)
		if v != asked {
			t.Fatalf("a question for data is %d", v)
		}
		for n := range heldLen + maxDown + 1 {
			b := appendText(nil, &q, 3, all[:n])
			if len(b) != textLen(&q, n+1) || len(b) > bufferSize-30 {
				t.Fatalf("%d bytes of text are a message of %d, not %d", n, len(b), textLen(&q, n+1))
			}
			r, err := parseReply(make([]byte, maxMessage), b, q.raw)
			if err != nil || !r.found || r.kind != 3 || !bytes.Equal(r.text, all[:n]) || r.id != 7 {
				t.Fatalf("%d bytes of text: %+v, %v", n, r, err)
			}
			if n%50 > 1 {
				continue
			}
			var twin dnsmessage.Message
			if err := twin.Unpack(b); err != nil || twin.Answers[0].Header.TTL != 0 {
				t.Fatalf("%d bytes of text: %v", n, err)
			}
			if got := strings.Join(twin.Answers[0].Body.(*dnsmessage.TXTResource).TXT, ""); got != "\x03"+string(all[:n]) {
				t.Fatalf("%d bytes of text are %q for others", n, got)
			}
		}
	}
}

func textName(wire []byte) string {
	var labels []string
	for ; wire[0] > 0; wire = wire[1+wire[0]:] {
		labels = append(labels, string(wire[1:1+wire[0]]))
	}
	return strings.Join(labels, ".") + "."
}

// What we ask is understood by others.
func TestQuestion(t *testing.T) {
	want := query{client: 99, number: 1 << 31, data: []byte("some bytes")}
	b := appendQuestion(nil, 0x1234, example, want)
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if m.ID != 0x1234 || !m.RecursionDesired || m.Response || m.Questions[0].Type != dnsmessage.TypeTXT || m.Additionals[0].Header.Class != bufferSize {
		t.Errorf("got %+v", m)
	}
	if got, ok := example.parseName(make([]byte, maxName), wireName(t, m.Questions[0].Name.String())); !ok || got.number != want.number {
		t.Errorf("got %+v", got)
	}
}

// Neither end allocates for a question or an answer.
func TestAllocations(t *testing.T) {
	data, scratch, out := make([]byte, example.maxUp()), make([]byte, maxMessage), make([]byte, 0, maxMessage)
	n := testing.AllocsPerRun(100, func() {
		m := appendQuestion(out, 1, example, query{client: 1, number: 2, data: data})
		_, q, got, v := authority{example}.judge(out[len(m):len(m)], scratch, m, netip.Addr{}, netip.Addr{}, false)
		if v != asked || len(got.data) != len(data) {
			t.Fatal(v)
		}
		b := appendText(out[len(m):len(m)], &q, 0, scratch[:maxDown])
		if r, err := parseReply(scratch, b, q.raw); err != nil || len(r.text) != maxDown {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever comes: no panic, no longer answer than question by UDP, and what we take for a question others do, too.
// exam: M14, R15
func FuzzQuestion(f *testing.F) {
	f.Add(appendQuestion(nil, 1, example, query{client: 1, number: 2, data: []byte("data")}))
	f.Add(appendQuestion(nil, 1, example, query{client: 1, number: 2, data: make([]byte, example.maxUp())}))
	f.Add(appendQuestion(nil, 1, example, query{client: 1, number: 2, test: true, data: []byte{3, 0}}))
	f.Add(ask(f, "t.example.org.", dnsmessage.TypeSOA, dnsmessage.ClassINET, 1232))
	f.Add(ask(f, "ns.t.example.org.", dnsmessage.TypeAAAA, dnsmessage.ClassINET, 0))
	f.Add(ask(f, "version.bind.", dnsmessage.TypeTXT, dnsmessage.ClassCHAOS, 0))
	local := netip.MustParseAddr("192.0.2.1")
	f.Fuzz(func(t *testing.T, m []byte) {
		for _, stream := range []bool{false, true} {
			b, q, data, v := authority{example}.judge(nil, make([]byte, maxName), m, local, local, stream)
			if v != answered && len(b) > 0 || !stream && len(b) > len(m) {
				t.Fatalf("%d: %d bytes for %d", v, len(b), len(m))
			}
			if v == silent {
				continue
			}
			var p dnsmessage.Parser
			if v == answered {
				var twin dnsmessage.Message
				if err := twin.Unpack(b); err != nil && !bytes.ContainsRune(q.name, '.') { // which dnsmessage does not take in a label
					t.Fatalf("%x: %v", b, err)
				}
				continue
			}
			h, err := p.Start(m)
			if err != nil || h.ID != q.id {
				t.Fatal(h, err)
			}
			if twin, err := p.Question(); err != nil || uint16(twin.Type) != q.kind || int(twin.Name.Length) != len(q.name)-1 {
				t.Fatal(twin, err)
			}
			again := example.appendName(nil, data)
			if !sameName(again, q.name) {
				t.Fatalf("%x becomes %x", q.name, again)
			}
		}
	})
}

// Whatever comes to a client: no panic, and no more text than there is.
// exam: M14
func FuzzReply(f *testing.F) {
	name := example.appendName(nil, query{client: 1, number: 2})
	raw := append(bytes.Clone(name), 0, typeTXT, 0, classIN)
	q := question{id: 1, raw: raw, edns: true}
	f.Add(appendText(nil, &q, 0, make([]byte, 900)))
	f.Add(appendText(nil, &q, 1, nil))
	f.Add(appendTruncated(nil, &q))
	f.Add(appendCode(nil, &q, 0, codeRefused))
	f.Fuzz(func(t *testing.T, m []byte) {
		r, err := parseReply(make([]byte, 0, maxMessage), m, raw)
		if err == nil && len(r.text) >= len(m) {
			t.Fatalf("%d bytes of %d", len(r.text), len(m))
		}
	})
}
