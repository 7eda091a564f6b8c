package session

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"ferry/internal/proto"
)

var (
	pool   = netip.MustParsePrefix("10.0.0.0/16")
	addr   = netip.MustParseAddr("10.0.254.254")
	static = netip.MustParseAddr("10.0.3.4")
	pushed = proto.PushedConfig{
		Prefix: netip.MustParsePrefix("10.0.254.254/16"), Gateway: netip.MustParseAddr("10.0.0.1"), MTU: 1400,
		Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}, Token: proto.Token{1, 2}, Idle: time.Minute, NextKey: [32]byte{3},
	}
)

const all = proto.FeatureSuper | proto.FeatureConfig | proto.FeaturePing | proto.FeatureGoodbye | proto.FeatureUSO

// items cuts a stream into its items.
func items(t *testing.T, fromServer bool, b []byte) (kinds []proto.Kind, list [][]byte) {
	t.Helper()
	f := proto.Framer{FromServer: fromServer, Extended: true}
	for len(b) > 0 {
		kind, n, err := f.Next(b)
		if err != nil || n == 0 {
			t.Fatalf("%x: %v", b, err)
		}
		kinds, list = append(kinds, kind), append(list, b[:n])
		b = b[n:]
	}
	return kinds, list
}

// join plays the whole negotiation.
func join(t *testing.T, c *Client, s *Server, got netip.Addr, push proto.PushedConfig) (Ask, bool) {
	t.Helper()
	var ask Ask
	complete := false
	kinds, list := items(t, false, c.Ask(nil))
	for i, kind := range kinds {
		switch kind {
		case proto.KindRequest:
			ask, complete = s.Request(list[i])
		case proto.KindHello:
			var err error
			if ask, err = s.Hello(list[i]); err != nil {
				t.Fatal(err)
			}
			complete = true
		}
	}
	if !complete {
		t.Fatal("the gateway waits for more")
	}
	done := false
	kinds, list = items(t, true, s.Answer(nil, got, push))
	for i, kind := range kinds {
		var err error
		switch kind {
		case proto.KindReply:
			done, err = c.Reply(list[i])
		case proto.KindConfig:
			done, err = c.Config(list[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return ask, done
}

func TestJoin(t *testing.T) {
	last := Lease{Prefix: netip.MustParsePrefix("10.0.7.7/16"), Token: proto.Token{9}}
	tests := []struct {
		name  string
		want  Want
		offer proto.Features
		ask   Ask
	}{
		{"first time", Want{Features: all}, all, Ask{Features: all, Extended: true}},
		{"static", Want{Features: all, Static: addr}, all, Ask{Static: addr, Features: all, Extended: true}},
		{"an older gateway", Want{Features: all}, proto.FeatureConfig, Ask{Features: proto.FeatureConfig, Extended: true}},
		{"an older client", Want{Features: proto.FeatureConfig}, all, Ask{Features: proto.FeatureConfig, Extended: true}},
		{"with a name", Want{Features: all, Name: "cam1"}, all, Ask{Name: "cam1", Features: all, Extended: true}},
		{"again", Want{Features: all, Last: last}, all, Ask{
			Hint: last.Prefix.Addr(), Resume: last.Prefix.Addr(), Token: last.Token, Features: all, Extended: true}},
		{"again, without a token", Want{Features: all, Last: Lease{Prefix: last.Prefix}}, all, Ask{
			Hint: last.Prefix.Addr(), Features: all, Extended: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, s := NewClient(tt.want), NewServer(pool, tt.offer)
			ask, done := join(t, c, s, addr, pushed)
			if ask != tt.ask {
				t.Errorf("gateway heard %+v, want %+v", ask, tt.ask)
			}
			want := Lease{
				Prefix: pushed.Prefix, Gateway: pushed.Gateway, MTU: pushed.MTU, Routes: pushed.Routes,
				Token: pushed.Token, Idle: pushed.Idle, NextKey: pushed.NextKey, Features: ask.Features, Extended: true,
			}
			if got := c.Lease(); !done || !reflect.DeepEqual(got, want) {
				t.Errorf("client got %+v, done %v; want %+v", got, done, want)
			}
		})
	}
}

// A 2013 server sends the request back with the addresses changed, twice.
func TestServerOf2013(t *testing.T) {
	c := NewClient(Want{Features: all})
	reply := c.Ask(nil)
	copy(reply[16:], addr.AsSlice())
	done, err := c.Reply(reply)
	if !done || err != nil {
		t.Fatalf("got %v, %v", done, err)
	}
	if l := c.Lease(); l.Extended || l.Features != 0 || l.Prefix != netip.MustParsePrefix("10.0.254.254/16") || l.MTU != 1500 {
		t.Errorf("got %+v", l)
	}
	if done, err := c.Reply(reply); !done || err != nil {
		t.Errorf("the second reply: got %v, %v", done, err)
	}
}

// A request that comes back as it was assigns nothing.
func TestReflection(t *testing.T) {
	c := NewClient(Want{Features: all})
	if done, err := c.Reply(c.Ask(nil)); done || err != nil || c.Lease().Prefix.IsValid() {
		t.Errorf("got %v, %v, %+v", done, err, c.Lease())
	}
}

// A 2013 client gets its own bytes back but for the addresses, and nothing behind them.
func TestClientOf2013(t *testing.T) {
	s := NewServer(pool, all)
	request := proto.AppendRequest(nil, proto.Request{Static: static})
	copy(request[1:12], "\xde\xad\xbe\xef\x00\x00\x01\x02\x03\x04\x05")
	ask, complete := s.Request(request)
	if !complete || ask != (Ask{Static: static}) {
		t.Fatalf("got %+v, %v", ask, complete)
	}
	got := s.Answer(nil, static, pushed)
	want := append([]byte(nil), request...)
	clear(want[12:16])
	copy(want[16:], static.AsSlice())
	if string(got) != string(want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestClientRefusesNonsense(t *testing.T) {
	reply := func(a string) []byte {
		return proto.AppendReply(nil, proto.AppendRequest(nil, proto.Request{}), proto.Reply{
			Addr: netip.MustParseAddr(a), Extended: true, Features: proto.FeatureConfig})
	}
	for _, a := range []string{"127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "0.0.0.7"} {
		if _, err := NewClient(Want{}).Reply(reply(a)); !errors.Is(err, ErrAnswer) {
			t.Errorf("address %s: got %v", a, err)
		}
	}
	if _, err := NewClient(Want{Static: static}).Reply(reply("10.0.9.9")); !errors.Is(err, ErrAnswer) {
		t.Errorf("another address than the wanted one: got %v", err)
	}
	for name, change := range map[string]func(*proto.PushedConfig){
		"another address": func(c *proto.PushedConfig) { c.Prefix = netip.MustParsePrefix("10.0.9.9/16") },
		"prefix /0":       func(c *proto.PushedConfig) { c.Prefix = netip.MustParsePrefix("10.0.254.254/0") },
		"prefix /32":      func(c *proto.PushedConfig) { c.Prefix = netip.MustParsePrefix("10.0.254.254/32") },
		"gateway outside": func(c *proto.PushedConfig) { c.Gateway = netip.MustParseAddr("192.0.2.1") },
	} {
		push := pushed
		change(&push)
		c := NewClient(Want{Features: all})
		if _, err := c.Reply(reply("10.0.254.254")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Config(proto.AppendConfig(nil, push)); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := NewClient(Want{}).Config(proto.AppendConfig(nil, pushed)); !errors.Is(err, ErrAnswer) {
		t.Errorf("configuration before a reply: got %v", err)
	}
}

func TestHelloOutOfPlace(t *testing.T) {
	hello := proto.AppendHello(nil, proto.HelloMessage{Name: "x"})
	s := NewServer(pool, all)
	if _, err := s.Hello(hello); err == nil {
		t.Error("a hello before any request is taken")
	}
	s.Request(proto.AppendRequest(nil, proto.Request{Extended: true, Features: all}))
	if _, err := s.Hello(hello); err == nil {
		t.Error("a hello that nobody announced is taken")
	}
}

// What was agreed upon first stays, whatever a later request on the connection says.
func TestFeaturesStay(t *testing.T) {
	s := NewServer(pool, all)
	s.Request(proto.AppendRequest(nil, proto.Request{Extended: true, Features: proto.FeatureConfig}))
	ask, _ := s.Request(proto.AppendRequest(nil, proto.Request{Extended: true, Features: all}))
	if ask.Features != proto.FeatureConfig {
		t.Errorf("got %04x", uint16(ask.Features))
	}
}

func TestHintInSmallPool(t *testing.T) {
	s := NewServer(netip.MustParsePrefix("172.16.4.0/22"), all)
	ask, _ := s.Request(proto.AppendRequest(nil, proto.Request{Extended: true, Hint: 0x0507}))
	if want := netip.MustParseAddr("172.16.5.7"); ask.Hint != want {
		t.Errorf("got %s, want %s", ask.Hint, want)
	}
}
