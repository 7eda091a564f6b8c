package proto

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/packet"
)

var kindNames = map[Kind]string{
	KindRequest: "request", KindReply: "reply", KindKeepalive: "keepalive", KindIPv4: "ipv4", KindIPv6: "ipv6",
	KindData: "data", KindConfig: "config", KindHello: "hello", KindPing: "ping", KindPong: "pong",
	KindGoodbye: "goodbye", KindJoin: "join", KindJoined: "joined", KindAttach: "attach", KindAttached: "attached",
	KindAck: "ack", KindSwitch: "switch", KindNumber: "number", KindFragment: "fragment", KindLimit: "limit", KindPublish: "publish", KindUnknown: "unknown",
}

// vectors reads the records of all files.
func vectors(t *testing.T) (all []map[string]string) {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for record := range strings.SplitSeq(string(text), "\n\n") {
			v := map[string]string{}
			for line := range strings.Lines(record) {
				line = strings.TrimSpace(line)
				if key, value, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
					v[key] = value
				}
			}
			if v["name"] != "" {
				all = append(all, v)
			}
		}
	}
	return all
}

func TestVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range vectors(t) {
		t.Run(v["name"], func(t *testing.T) {
			b, err := hex.DecodeString(strings.ReplaceAll(v["hex"], " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			f := Framer{FromServer: v["from"] == "server", Extended: v["extended"] == "yes"}
			kind, n, err := f.Next(b)
			name := kindNames[kind]
			if err != nil {
				name = "close"
			}
			seen[name] = true
			if name != v["kind"] {
				t.Fatalf("got kind %q (error %v), want %q", name, err, v["kind"])
			}
			if name == "close" {
				return
			}
			if got := fmt.Sprint(n); got != v["length"] {
				t.Fatalf("got length %s, want %s", got, v["length"])
			}
			encoded := checkFields(t, kind, b, v)
			if encoded != nil && v["encode"] != "no" && !bytes.Equal(encoded, b) {
				t.Errorf("encoder gives %x, want %x", encoded, b)
			}
		})
	}
	for _, name := range kindNames {
		if !seen[name] {
			t.Errorf("no vector of kind %s", name)
		}
	}
}

// checkFields compares the fields of a packet with those of the vector and encodes them again.
func checkFields(t *testing.T, kind Kind, b []byte, v map[string]string) []byte {
	t.Helper()
	compare := func(key string, got any) {
		t.Helper()
		if g := fmt.Sprint(got); g != v[key] {
			t.Errorf("%s: got %q, want %q", key, g, v[key])
		}
	}
	switch kind {
	case KindIPv4:
		checkHeader(t, b)
	case KindData:
		checkHeader(t, b[DataHeaderLen:])
	case KindRequest:
		r := ParseRequest(b)
		compare("static", addrText(r.Static))
		compare("extended-request", yes(r.Extended))
		if r.Extended {
			compare("features", fmt.Sprintf("%04x", uint16(r.Features)))
			compare("hint", r.Hint)
		}
		return AppendRequest(nil, r)
	case KindReply:
		r := ParseReply(b)
		compare("addr", r.Addr)
		compare("extended-reply", yes(r.Extended))
		if r.Extended {
			compare("features", fmt.Sprintf("%04x", uint16(r.Features)))
		}
		return AppendReply(nil, AppendRequest(nil, Request{}), r)
	case KindKeepalive:
		return AppendKeepalive(nil)
	case KindConfig:
		c, err := ParseConfig(b)
		if err != nil {
			t.Fatal(err)
		}
		if v["encode"] != "no" {
			compare("prefix", c.Prefix)
			compare("gateway", c.Gateway)
			compare("routes", strings.Trim(fmt.Sprint(c.Routes), "[]"))
			compare("token", hex.EncodeToString(c.Token[:]))
			compare("idle", seconds(c.Idle))
			if next := hex.EncodeToString(c.NextKey[:]); v["next-key"] != "" || c.NextKey != [32]byte{} {
				compare("next-key", next)
			}
			compare("dns", strings.Trim(fmt.Sprint(c.DNS), "[]"))
			compare("domains", strings.Join(c.Domains, " "))
			compare("carriers", strings.Join(c.Carriers, " "))
			if v["session"] != "" || c.Session != (SessionID{}) {
				compare("session", hex.EncodeToString(c.Session[:]))
			}
		}
		compare("mtu", c.MTU)
		return AppendConfig(nil, c)
	case KindHello:
		h, err := ParseHello(b)
		if err != nil {
			t.Fatal(err)
		}
		compare("name-field", h.Name)
		compare("resume", addrText(h.Resume))
		if h.Resume.IsValid() {
			compare("token", hex.EncodeToString(h.Token[:]))
		}
		return AppendHello(nil, h)
	case KindPing:
		compare("payload", hex.EncodeToString(Payload(b)))
		return AppendPing(nil, Payload(b))
	case KindPong:
		compare("payload", hex.EncodeToString(Payload(b)))
		return AppendPong(nil, b)
	case KindGoodbye:
		g, err := ParseGoodbye(b)
		if err != nil {
			t.Fatal(err)
		}
		compare("reason", uint8(g.Reason))
		compare("retry-after", seconds(g.RetryAfter))
		compare("text", g.Text)
		return AppendGoodbye(nil, g)
	case KindJoin:
		s, err := ParseJoin(b)
		if err != nil {
			t.Fatal(err)
		}
		compare("secret", hex.EncodeToString(s[:]))
		return AppendJoin(nil, s)
	case KindJoined:
		j, err := ParseJoined(b)
		if err != nil {
			t.Fatal(err)
		}
		compare("name-field", j.Name)
		compare("addr", j.Addr)
		return AppendJoined(nil, j)
	}
	return checkSession(t, kind, b, compare)
}

// checkSession does so for the frames of a session with paths.
func checkSession(t *testing.T, kind Kind, b []byte, compare func(string, any)) []byte {
	t.Helper()
	var err error
	defer func() {
		if err != nil {
			t.Fatal(err)
		}
	}()
	switch kind {
	case KindAttach:
		var a AttachMessage
		a, err = ParseAttach(b)
		compare("session", hex.EncodeToString(a.Session[:]))
		compare("epoch", a.Epoch)
		compare("received", a.Received)
		compare("use", yes(a.Use))
		return AppendAttach(nil, a)
	case KindAttached:
		var a AttachedMessage
		a, err = ParseAttached(b)
		compare("known", yes(a.Known))
		compare("received", a.Received)
		return AppendAttached(nil, a)
	case KindAck, KindNumber:
		var n uint64
		n, err = ParseNumber(b)
		compare("number", n)
		if kind == KindAck {
			return AppendAck(nil, n)
		}
		return AppendNumber(nil, n)
	case KindSwitch:
		var s SwitchMessage
		s, err = ParseSwitch(b)
		compare("epoch", s.Epoch)
		compare("number", s.Next)
		compare("turn", s.Turn)
		compare("again", yes(s.Again))
		return AppendSwitch(nil, s)
	case KindPublish:
		var m PublishMessage
		if m, err = ParsePublish(b); err == nil {
			compare("serial", m.Serial)
			var all []string
			for _, s := range m.Services {
				all = append(all, fmt.Sprintf("%s %d %s %s", s.Protocol(), s.At, netip.AddrPortFrom(s.Addr, s.Port), s.Name))
			}
			compare("services", strings.Join(all, ", "))
		}
		return AppendPublish(nil, m)
	case KindLimit:
		var n int
		n, err = ParseLimit(b)
		compare("number", n)
		return AppendLimit(nil, n)
	case KindFragment:
		var f FragmentMessage
		f, err = ParseFragment(b)
		compare("number", f.Number)
		compare("offset", f.Offset)
		compare("whole", f.Len)
		compare("part", hex.EncodeToString(f.Part))
		return AppendFragment(nil, f)
	}
	return nil
}

// checkHeader: a reader of the vectors may hand a packet to its kernel.
func checkHeader(t *testing.T, ip []byte) {
	t.Helper()
	if packet.Checksum(ip[:20], 0) != 0 {
		t.Errorf("wrong header checksum in %x", ip)
	}
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d/time.Second)) }

// exam: M14
func FuzzMessages(f *testing.F) {
	f.Add(AppendConfig(nil, PushedConfig{
		Prefix: netip.MustParsePrefix("10.0.254.254/16"), Gateway: netip.MustParseAddr("10.0.0.1"), MTU: 1500,
		Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}, Token: Token{1}, Idle: time.Minute, NextKey: [32]byte{2}, Session: SessionID{3}, Carriers: []string{"udp://:2002"},
	}))
	f.Add(AppendHello(nil, HelloMessage{Name: "cam1", Resume: netip.MustParseAddr("10.0.254.254"), Token: Token{2}}))
	f.Add(AppendGoodbye(nil, GoodbyeMessage{Reason: ReasonHeld, RetryAfter: time.Minute, Text: "held"}))
	f.Add(AppendJoin(nil, Secret{1, 2, 3}))
	f.Add(AppendJoined(nil, JoinedMessage{Name: "cam1", Addr: netip.MustParseAddr("10.0.127.254")}))
	f.Add(AppendAttach(nil, AttachMessage{Session: SessionID{1}, Epoch: 2, Received: 3, Use: true}))
	f.Add(AppendAttached(nil, AttachedMessage{Known: true, Received: 4}))
	f.Add(AppendAck(nil, 5))
	f.Add(AppendNumber(nil, MaxNumber))
	f.Add(AppendSwitch(nil, SwitchMessage{Epoch: 6, Next: 7, Again: true}))
	f.Add(AppendFragment(nil, FragmentMessage{Number: 8, Offset: 9, Len: 100, Part: []byte{1, 2, 3}}))
	f.Add(AppendPublish(nil, PublishMessage{Serial: 9, Services: []Service{
		{At: 80, Addr: netip.IPv4Unspecified(), Port: 80, Name: "httpd"}, {UDP: true, At: 1053, Addr: netip.IPv6Loopback(), Port: 53},
	}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < FrameHeaderLen {
			return
		}
		if m, err := ParsePublish(b); err == nil {
			again, err := ParsePublish(AppendPublish(nil, m))
			if err != nil || again.Serial != m.Serial || len(again.Services) != len(m.Services) {
				t.Errorf("publish %+v becomes %+v, %v", m, again, err)
			}
		}
		if s, err := ParseJoin(b); err == nil {
			if again, err := ParseJoin(AppendJoin(nil, s)); err != nil || again != s {
				t.Errorf("join %x becomes %x, %v", s, again, err)
			}
		}
		if j, err := ParseJoined(b); err == nil && len(j.Name) <= 63 {
			if again, err := ParseJoined(AppendJoined(nil, j)); err != nil || again != j {
				t.Errorf("joined %+v becomes %+v, %v", j, again, err)
			}
		}
		if c, err := ParseConfig(b); err == nil && len(c.Routes) <= MaxRoutes {
			again, err := ParseConfig(AppendConfig(nil, c))
			if err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
				t.Errorf("config %+v becomes %+v, %v", c, again, err)
			}
		}
		if h, err := ParseHello(b); err == nil {
			if again, err := ParseHello(AppendHello(nil, h)); err != nil || again != h {
				t.Errorf("hello %+v becomes %+v, %v", h, again, err)
			}
		}
		if g, err := ParseGoodbye(b); err == nil && len(g.Text) <= 255 {
			if again, err := ParseGoodbye(AppendGoodbye(nil, g)); err != nil || again != g {
				t.Errorf("goodbye %+v becomes %+v, %v", g, again, err)
			}
		}
		fuzzSession(t, b)
	})
}

// fuzzSession: what parses as a frame of a session is encoded to what parses as the same.
func fuzzSession(t *testing.T, b []byte) {
	if a, err := ParseAttach(b); err == nil {
		if again, err := ParseAttach(AppendAttach(nil, a)); err != nil || again != a {
			t.Errorf("attach %+v becomes %+v, %v", a, again, err)
		}
	}
	if a, err := ParseAttached(b); err == nil {
		if again, err := ParseAttached(AppendAttached(nil, a)); err != nil || again != a {
			t.Errorf("attached %+v becomes %+v, %v", a, again, err)
		}
	}
	if n, err := ParseNumber(b); err == nil && !bytes.Equal(AppendNumber(nil, n)[FrameHeaderLen:], Payload(b)) {
		t.Errorf("number %d is not %x", n, b)
	}
	if s, err := ParseSwitch(b); err == nil && !bytes.Equal(AppendSwitch(nil, s)[FrameHeaderLen:], Payload(b)) {
		t.Errorf("switch %+v is not %x", s, b)
	}
	if f, err := ParseFragment(b); err == nil && !bytes.Equal(AppendFragment(nil, f)[FrameHeaderLen:], Payload(b)) {
		t.Errorf("fragment %+v is not %x", f, b)
	}
}

// exam: M13
func TestPrintable(t *testing.T) {
	tests := map[string]string{
		"cam1":                   "cam1",
		"a\nb\x1b[2J\x00":        "a?b?[2J?",
		"right\u202eleft":        "right?left",
		"bad\xff utf8":           "bad? utf8",
		strings.Repeat("ä", 500): strings.Repeat("ä", 128),
		"Gerät":                  "Gerät",
	}
	for in, want := range tests {
		if got := Printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
