package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
)

// reload reloads what change makes of the configuration.
func (l *lab) reload(change func(*Config)) (api.Reloaded, error) {
	c := *l.g.c()
	c.Reread = func() (Config, error) {
		wanted := *l.g.c()
		change(&wanted)
		return wanted, nil
	}
	l.g.inForce.Store(&c)
	done, err := l.g.reload()
	l.settle()
	after := *l.g.c()
	after.Reread = nil
	l.g.inForce.Store(&after)
	return done, err
}

// ask connects a client without a key, and returns it once it has an address.
func (l *lab) ask(static, want string) (*raw, error) {
	r := l.dial()
	r.send(request(static, proto.FeatureGoodbye))
	l.settle()
	return r, r.want("client", extendedReply(static, want), false)
}

func (r *raw) wantBye(what string, reason proto.Reason) error {
	got, err := r.bye()
	if got != reason || err != nil {
		return fmt.Errorf("%s: got reason %s, %w, want %s", what, got, err, reason)
	}
	return nil
}

func site(prefix, via string) map[netip.Prefix]netip.Addr {
	return map[netip.Prefix]netip.Addr{netip.MustParsePrefix(prefix): netip.MustParseAddr(via)}
}

// Who has what is another's now goes, and is told so; all others notice nothing.
func TestReloadEndsWhoMayNotStay(t *testing.T) {
	start := Config{
		Reserved: map[string]netip.Addr{"cam1": netip.MustParseAddr("10.0.5.5")},
		Sites:    site("192.168.8.0/24", "10.0.200.8"),
	}
	err := inMemory(t, start, func(l *lab) error {
		var clients []*raw
		for _, a := range []string{"10.0.3.3", "10.0.200.8", "10.0.4.4", "10.0.200.9"} {
			r, err := l.ask(a, a)
			if err != nil {
				return err
			}
			clients = append(clients, r)
		}
		lan := ipPacket("192.168.8.9", "10.0.0.1")
		clients[1].send(lan)
		l.settle()
		if s := l.g.total.Stats(); s.Packets != 1 {
			return fmt.Errorf("a site has no way out: %+v", s)
		}
		began := time.Now()
		done, err := l.reload(func(c *Config) {
			c.Reserved = map[string]netip.Addr{"printer": netip.MustParseAddr("10.0.3.3")}
			c.Sites = site("192.168.9.0/24", "10.0.200.9")
		})
		if err != nil || done.Ended != 3 || !slices.Equal(done.Applied, []string{"reserved", "sites"}) || len(done.Waiting) > 0 {
			return fmt.Errorf("%+v, %w", done, err)
		}
		packet := ipPacket("10.0.4.4", "10.0.0.1")
		clients[2].send(packet)
		l.settle()
		other, freed := l.ask("10.0.5.5", "10.0.5.5")
		_ = other
		err = errors.Join(freed,
			clients[0].wantBye("whose address is reserved now", proto.ReasonRefused),
			clients[1].wantBye("whose network was taken away", proto.ReasonShutdown),
			clients[2].want("who has nothing to do with it", nil, false),
			clients[3].wantBye("whose address stands for a network now", proto.ReasonRefused))
		if d := time.Since(began); d > time.Second {
			err = errors.Join(err, fmt.Errorf("took %s", d))
		}
		if n := l.g.closed.counts()["reconfigured"]; n != 3 {
			err = errors.Join(err, fmt.Errorf("%d are counted", n))
		}
		if s := l.g.total.Stats(); s.Packets != 2 {
			err = errors.Join(err, fmt.Errorf("who stays does not get through: %+v", s))
		}
		// The new owner of the network is whoever asks for it.
		router, joined := l.ask("10.0.200.9", "10.0.200.9")
		router.send(ipPacket("192.168.9.9", "10.0.0.1"))
		router.send(lan)
		l.settle()
		if s := l.g.total.Stats(); s.Packets != 3 || s.Drops["source"] != 1 {
			err = errors.Join(err, fmt.Errorf("the networks are not as configured: %+v", s))
		}
		return errors.Join(err, joined)
	})
	if err != nil {
		t.Error(err)
	}
}

// What a client was told stays true for it; who comes later is told the new.
func TestReloadIsForThoseToCome(t *testing.T) {
	route := netip.MustParsePrefix("192.168.7.0/24")
	err := inMemory(t, Config{IdleTimeout: time.Minute}, func(l *lab) error {
		first := l.dial()
		first.send(request("", proto.FeatureConfig))
		l.settle()
		before, _ := first.take()
		_, err := l.reload(func(c *Config) {
			c.MTU, c.IdleTimeout, c.PushRoutes, c.JoinTimeout = 1400, 5*time.Second, []netip.Prefix{route}, time.Second
		})
		if err != nil {
			return err
		}
		second, mute := l.dial(), l.dial()
		second.send(request("", proto.FeatureConfig))
		l.settle()
		after, _ := second.take()
		for what, got := range map[string][]byte{"before": before, "after": after} {
			pushed, err := proto.ParseConfig(got[proto.ControlLen:])
			want := proto.PushedConfig{MTU: 1500, Idle: time.Minute}
			if what == "after" {
				want = proto.PushedConfig{MTU: 1400, Idle: 5 * time.Second, Routes: []netip.Prefix{route}}
			}
			if err != nil || pushed.MTU != want.MTU || pushed.Idle != want.Idle || !slices.Equal(pushed.Routes, want.Routes) {
				return fmt.Errorf("%s: pushed %+v, %w, want %+v", what, pushed, err, want)
			}
		}
		time.Sleep(3 * time.Second)
		if _, eof := mute.take(); !eof {
			return errors.New("who never asked is there after the new join_timeout")
		}
		time.Sleep(5 * time.Second)
		if _, eof := second.take(); !eof {
			return errors.New("who was told 5 s is there after 8 s of silence")
		}
		time.Sleep(40 * time.Second)
		if _, eof := first.take(); eof {
			return errors.New("who was told 60 s was dropped after 48 s of silence")
		}
		time.Sleep(20 * time.Second)
		if _, eof := first.take(); !eof {
			return errors.New("who was told 60 s is there after 68 s of silence")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Policies are in force with the answer to the operator.
func TestReloadPolicies(t *testing.T) {
	level := new(slog.LevelVar)
	var log lines
	c := Config{Key: identity.NewKey(), SetLevel: level.Set, Log: slog.New(slog.NewTextHandler(&log, nil))}
	err := inMemory(t, c, func(l *lab) error {
		l.g.protect([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
		cam, err := l.add("cam")
		if err != nil {
			return err
		}
		hub, err := l.add("hub")
		if err != nil {
			return err
		}
		a, b := l.join(cam, ""), l.join(hub, "")
		plain, err := l.ask("", "10.0.254.254")
		if err != nil {
			return err
		}
		addrA, addrB := "10.0.127.254", "10.0.127.253"
		reaches := func(r *raw, src, dst string) bool {
			before := l.g.total.Stats().Packets
			r.send(ipPacket(src, dst))
			l.settle()
			return l.g.total.Stats().Packets > before
		}
		check := func(what string, want ...bool) error {
			got := []bool{reaches(a, addrA, addrB), reaches(plain, "10.0.254.254", addrA), reaches(a, addrA, "192.0.2.1"), reaches(a, addrA, "198.51.100.9")}
			if !slices.Equal(got, want) {
				return fmt.Errorf("%s: device to device, plain to device, to the host, to the Internet: %v, want %v", what, got, want)
			}
			return nil
		}
		if err := check("at first", true, false, false, true); err != nil {
			return err
		}
		_, err = l.reload(func(c *Config) {
			c.Isolate = true
			c.Allow, c.Deny = []policy.Target{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}, []policy.Target{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}}
			c.LogLevel, c.MaxSessions, c.QueueTotal = slog.LevelDebug, 3, 200
		})
		if err := errors.Join(err, check("after a reload", false, false, true, false)); err != nil {
			return err
		}
		if level.Level() != slog.LevelDebug {
			return errors.New("the level of the log is as before")
		}
		if r := l.dial(); !func() bool { l.settle(); _, eof := r.take(); return eof }() {
			return errors.New("a fourth of three connections is let in")
		}
		if !strings.Contains(strings.Join(log.all(), ""), "cause=max_sessions") {
			return errors.New("the log does not name who is refused before a byte is read")
		}
		_, err = l.reload(func(c *Config) { c.Isolate, c.Mix, c.MaxSessions = false, true, 10 })
		_ = b
		return errors.Join(err, check("after another one", true, true, true, false))
	})
	if err != nil {
		t.Error(err)
	}
}

// An exit that refuses a state.
type refusing struct {
	*memory
	refuses bool
	states  []hostnet.State
}

func (e *refusing) Apply(s hostnet.State) error {
	if e.refuses && s.Masquerade {
		return errors.New("no nft here")
	}
	e.states = append(e.states, s)
	return nil
}

// A fault changes nothing, and the operator and the log hear of it.
func TestReloadFault(t *testing.T) {
	var log lines
	c := Config{Key: identity.NewKey(), Log: slog.New(slog.NewTextHandler(&log, nil))}
	err := inMemory(t, c, func(l *lab) error {
		l.settle()
		e := &refusing{memory: l.m, refuses: true}
		l.g.exit = e
		before := *l.g.c()
		for what, change := range map[string]func(*Config){
			"host": func(c *Config) { c.NAT, c.Isolate = true, true },
			"reserved": func(c *Config) {
				c.Isolate, c.Reserved = true, map[string]netip.Addr{"a": netip.MustParseAddr("10.0.0.1")}
			},
			"listen": func(c *Config) { c.Isolate, c.Listen = true, []string{"tcp://:2002?allow=all"} },
			"no key": func(c *Config) { c.Isolate, c.Key, c.Listen = true, identity.Key{}, []string{"tcp://:2002?allow=tls"} },
		} {
			n := len(log.all())
			done, err := l.reload(change)
			if err == nil || len(done.Applied) > 0 || l.g.c().Isolate || l.g.c().NAT != before.NAT {
				return fmt.Errorf("%s: %+v, %v", what, done, err)
			}
			if got := strings.Join(log.all()[n:], ""); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "not applied") {
				return fmt.Errorf("%s: the log says %q", what, got)
			}
		}
		if n := len(e.states); n != 1 || e.states[0].Masquerade {
			return fmt.Errorf("the host was left with %+v", e.states)
		}
		if _, err := l.g.reload(); !errors.Is(err, errNoFile) {
			return fmt.Errorf("without a file: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// What waits for a restart is to be seen until then.
func TestReloadWaiting(t *testing.T) {
	err := inMemory(t, Config{}, func(l *lab) error {
		done, err := l.reload(func(c *Config) { c.TUN, c.MTU = "vpn7", 1400 })
		if s := l.g.status(); err != nil || !slices.Equal(done.Waiting, []string{"tun"}) || !slices.Equal(s.Waiting, done.Waiting) || l.g.c().MTU != 1400 || s.Interface != "vpn0" {
			return fmt.Errorf("%+v, %w, %+v", done, err, s)
		}
		_, err = l.reload(func(c *Config) { c.TUN = "vpn0" })
		if s := l.g.status(); len(s.Waiting) != 0 {
			return fmt.Errorf("%+v", s)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Devices, and nobody else, hear of the gateway's next key: when they join, and while they are here.
func TestNextKeyIsAnnounced(t *testing.T) {
	first, second := identity.Pin{1}, identity.Pin{2}
	err := inMemory(t, Config{Key: identity.NewKey(), NextKey: first}, func(l *lab) error {
		cam, err := l.add("cam")
		if err != nil {
			return err
		}
		if _, err := l.add("away"); err != nil {
			return err
		}
		ask := request("", proto.FeatureConfig)
		device, plain := l.dialTLS(identity.Tunnel, cam), l.dial()
		device.send(ask)
		plain.send(ask)
		l.settle()
		pushed := func(r *raw, skip int) (identity.Pin, error) {
			b, eof := r.take()
			if len(b) < skip || eof {
				return identity.Pin{}, fmt.Errorf("got %x, disconnected %v", b, eof)
			}
			c, err := proto.ParseConfig(b[skip:])
			return c.NextKey, err
		}
		knows := func(want string) error {
			all, err := l.g.listPeers()
			got := ""
			for _, p := range all.Peers {
				if p.KnowsNext {
					got += p.Name
				}
			}
			if got != want {
				return fmt.Errorf("%q know the next key, %w, want %q", got, err, want)
			}
			return nil
		}
		if got, err := pushed(device, proto.ControlLen); got != first || err != nil {
			return fmt.Errorf("with the address: %v, %w", got, err)
		}
		if got, err := pushed(plain, proto.ControlLen); got != (identity.Pin{}) || err != nil {
			return fmt.Errorf("without a key: %v, %w", got, err)
		}
		if err := knows("cam"); err != nil {
			return err
		}
		for _, next := range []identity.Pin{second, {}} {
			if _, err := l.reload(func(c *Config) { c.NextKey = next }); err != nil {
				return err
			}
			if got, err := pushed(device, 0); got != next || err != nil {
				return fmt.Errorf("later: %v, %w", got, err)
			}
			want := "cam"
			if next == (identity.Pin{}) {
				want = ""
			}
			if err := errors.Join(knows(want), plain.want("without a key", nil, false)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
