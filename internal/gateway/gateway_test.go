package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ferry/internal/proto"
)

func TestClientOf2013(t *testing.T) {
	err := inMemory(t, Config{}, func(l *lab) error {
		a, b := l.dial(), l.dial()
		a.send(request("", 0))
		l.settle()
		b.send(request("10.0.3.4", 0))
		l.settle()
		keepalive := proto.AppendKeepalive(nil)
		packet := ipPacket("10.0.254.254", "10.0.3.4")
		err := errors.Join(
			a.want("dynamic", reply(request("", 0), "10.0.254.254"), false),
			b.want("static", reply(request("10.0.3.4", 0), "10.0.3.4"), false))
		for _, part := range [][]byte{packet[:5], packet[5:], keepalive} {
			a.send(part)
		}
		l.settle()
		return errors.Join(err, a.want("echo", keepalive, false), b.want("packet", packet, false))
	})
	if err != nil {
		t.Error(err)
	}
}

// What is sent before an address was asked for.
// exam: P1, P8
func TestDataBeforeAddress(t *testing.T) {
	for _, selfAssign := range []bool{false, true} {
		err := inMemory(t, Config{LegacySelfAssign: selfAssign}, func(l *lab) error {
			a := l.dial()
			a.send(ipPacket("10.0.9.9", "10.0.0.1"))
			l.settle()
			got := len(l.m.got) > 0
			if n := l.g.total.Stats().Drops["no_address"]; got != selfAssign || n > 0 == selfAssign {
				return fmt.Errorf("legacy_self_assign %v: forwarded %v, %d dropped", selfAssign, got, n)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A thousand requests on one connection: one address, a thousand single replies.
// exam: P2
func TestManyRequests(t *testing.T) {
	err := inMemory(t, Config{}, func(l *lab) error {
		a := l.dial()
		start := time.Now()
		for range 1000 {
			a.send(request("", 0))
		}
		time.Sleep(100 * time.Millisecond) // the last one waits, too
		l.settle()
		took := time.Since(start)
		if took < time.Second || took > 5*time.Second {
			return fmt.Errorf("took %s: is the rate limited?", took)
		}
		if s := l.g.leases.pool.Stats(); s.Live != 1 {
			return fmt.Errorf("%d addresses are live", s.Live)
		}
		return a.want("replies", bytes.Repeat(reply(request("", 0), "10.0.254.254"), 1000), false)
	})
	if err != nil {
		t.Error(err)
	}
}

// A refusal is no byte for a 2013 client, and a reason for one that understands it.
// exam: P3
func TestRefusals(t *testing.T) {
	err := inMemory(t, Config{Reserved: map[string]netip.Addr{"cam1": netip.MustParseAddr("10.0.5.5")}}, func(l *lab) (err error) {
		owner := l.dial()
		owner.send(request("10.0.3.4", 0))
		l.settle()
		owner.take()
		for static, reason := range map[string]proto.Reason{
			"10.0.3.4": proto.ReasonInUse, "10.0.0.1": proto.ReasonRefused, "10.0.0.0": proto.ReasonRefused,
			"10.0.255.255": proto.ReasonRefused, "192.0.2.1": proto.ReasonRefused, "10.0.5.5": proto.ReasonRefused,
			"255.255.255.255": proto.ReasonRefused,
		} {
			old := l.dial()
			old.send(request(static, 0))
			l.settle()
			err = errors.Join(err, old.want(static, nil, true))
			extended := l.dial()
			extended.send(request(static, proto.FeatureGoodbye))
			l.settle()
			got, eof := extended.take()
			kind, n, _ := proto.Framer{FromServer: true, Extended: true}.Next(got)
			if kind != proto.KindGoodbye || n != len(got) || !eof {
				err = errors.Join(err, fmt.Errorf("%s: got %x, want a goodbye", static, got))
			} else if bye, _ := proto.ParseGoodbye(got); bye.Reason != reason {
				err = errors.Join(err, fmt.Errorf("%s: got %s, want %s", static, bye.Reason, reason))
			}
		}
		packet := ipPacket("10.0.3.4", "10.0.0.1")
		owner.send(packet)
		l.settle()
		if len(l.m.got) == 0 {
			err = errors.Join(err, errors.New("the owner was affected"))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// join plays an extended client and returns its address and token.
func join(l *lab, r *raw, ask []byte) (netip.Addr, proto.Token, error) {
	r.send(ask)
	l.settle()
	got, _ := r.take()
	f := proto.Framer{FromServer: true, Extended: true}
	kind, n, err := f.Next(got)
	if err != nil || kind != proto.KindReply {
		return netip.Addr{}, proto.Token{}, fmt.Errorf("got %x instead of a reply: %v", got, err)
	}
	addr := proto.ParseReply(got[:n]).Addr
	c, err := proto.ParseConfig(got[n:])
	return addr, c.Token, err
}

func resume(addr netip.Addr, token proto.Token) []byte {
	b := proto.AppendRequest(nil, proto.Request{Extended: true, Features: proto.FeatureConfig | proto.FeatureGoodbye | proto.FeatureHello})
	return proto.AppendHello(b, proto.HelloMessage{Resume: addr, Token: token})
}

// An address is its owner's, live or vanished; the owner proves itself by its token.
// exam: P4, U3
func TestResume(t *testing.T) {
	err := inMemory(t, Config{}, func(l *lab) error {
		first := l.dial()
		addr, token, err := join(l, first, request("10.0.3.4", proto.FeatureConfig|proto.FeatureGoodbye))
		if err != nil {
			return err
		}
		second := l.dial() // the old connection still seems to live
		again, _, err := join(l, second, resume(addr, token))
		if err != nil || again != addr {
			return fmt.Errorf("resumed %s, %v", again, err)
		}
		if got, eof := first.take(); !eof || len(got) < 5 || got[4] != byte(proto.ReasonReplaced) {
			return fmt.Errorf("the old connection got %x, disconnected %v", got, eof)
		}
		second.conn.Close()
		l.settle()
		stranger := l.dial()
		stranger.send(request("10.0.3.4", 0))
		l.settle()
		if err := stranger.want("stranger", nil, true); err != nil {
			return err
		}
		third := l.dial()
		if again, _, err = join(l, third, resume(addr, token)); err != nil || again != addr {
			return fmt.Errorf("resumed %s, %v", again, err)
		}
		third.send(proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown}))
		l.settle()
		stranger = l.dial()
		stranger.send(request("10.0.3.4", 0))
		l.settle()
		return stranger.want("after a goodbye", reply(request("", 0), "10.0.3.4"), false)
	})
	if err != nil {
		t.Error(err)
	}
}

// Exam R2, F6 and the deadlines: each in total, not per read.
// exam: M5, R2, F6
func TestDeadlines(t *testing.T) {
	tests := []struct {
		name  string
		play  func(l *lab, r *raw)
		cause string
		limit time.Duration
	}{
		{"never speaks", func(*lab, *raw) {}, "join_timeout", 10 * time.Second},
		{"a byte every 5 s", func(_ *lab, r *raw) {
			for _, b := range request("", 0) {
				r.send([]byte{b})
				time.Sleep(5 * time.Second)
			}
		}, "join_timeout", 10 * time.Second},
		{"an unfinished packet (M5)", func(l *lab, r *raw) {
			r.send(request("", 0))
			l.settle()
			r.send(append(binary.BigEndian.AppendUint16([]byte{0x45, 0}, 65535), make([]byte, 20)...)[:24])
			for range 10 {
				time.Sleep(2 * time.Second)
				r.send([]byte{0})
			}
		}, "bad_header frame_timeout", 10 * time.Second},
		{"silent", func(l *lab, r *raw) { r.send(request("", 0)); l.settle() }, "idle_timeout", time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := inMemory(t, Config{}, func(l *lab) error {
				r := l.dial()
				start := time.Now()
				go tt.play(l, r)
				for {
					time.Sleep(100 * time.Millisecond)
					if _, eof := r.take(); eof {
						break
					}
					if time.Since(start) > 3*time.Minute {
						return errors.New("still connected")
					}
				}
				took := time.Since(start)
				time.Sleep(time.Minute + 50*time.Second) // the player is done
				for cause := range l.g.closed.counts() {
					if !bytes.Contains([]byte(tt.cause), []byte(cause)) {
						return fmt.Errorf("ended by %s, want %s", cause, tt.cause)
					}
				}
				if took < tt.limit-time.Second || took > tt.limit*5/4+time.Second {
					return fmt.Errorf("took %s, want about %s", took, tt.limit)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What the gateway itself has not got to yet is not late: here it answers requests at its own rate.
func TestFrameIsNotLateWhileWeWait(t *testing.T) {
	err := inMemory(t, Config{}, func(l *lab) error {
		r := l.dial()
		r.send(request("", 0))
		l.settle()
		r.take()
		packet := ipPacket("10.0.254.254", "10.0.0.1")
		go func() {
			r.send(packet[:3])
			time.Sleep(time.Second)
			r.send(append(packet[3:], bytes.Repeat(request("", 0), 6100)...)) // at 500 a second
		}()
		time.Sleep(15 * time.Second)
		l.settle()
		if got, eof := r.take(); eof || len(got) != 6100*proto.ControlLen {
			return fmt.Errorf("disconnected %v %v, %d bytes of answers; want %d", eof, l.g.closed.counts(), len(got), 6100*proto.ControlLen)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestMaxSessions(t *testing.T) {
	err := inMemory(t, Config{MaxSessions: 2}, func(l *lab) error {
		l.dial()
		l.dial()
		l.settle()
		third := l.dial()
		l.settle()
		if _, eof := third.take(); !eof || l.g.closed.counts()["max_sessions"] != 1 {
			return fmt.Errorf("third connection: disconnected %v, counted %v", eof, l.g.closed.counts())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// After any sequence of connections, requests, deaths and time an address leads to one
// connection, which believes that it has it, and the addresses in use are those that were granted.
// exam: P13
func TestModel(t *testing.T) {
	type op struct{ kind, who, addr int }
	ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) op {
		return op{rapid.IntRange(0, 6).Draw(t, "op"), rapid.IntRange(0, 4).Draw(t, "client"), rapid.IntRange(0, 15).Draw(t, "address")}
	}), 1, 40)
	rapid.Check(t, func(rt *rapid.T) {
		list := ops.Draw(rt, "ops")
		err := inMemory(t, Config{Pool: netip.MustParsePrefix("10.7.0.0/28")}, func(l *lab) error {
			clients := make([]*raw, 5)
			last := make([]netip.Addr, 5) // what each client was told, and its token
			tokens := make([]proto.Token, 5)
			for i, o := range list {
				r := clients[o.who]
				if r == nil {
					r = l.dial()
					clients[o.who] = r
				}
				switch o.kind {
				case 0, 1:
					ask := request("", proto.FeatureConfig)
					if o.kind == 1 {
						ask = request(fmt.Sprintf("10.7.0.%d", o.addr), proto.FeatureConfig)
					}
					if a, token, err := join(l, r, ask); err == nil {
						last[o.who], tokens[o.who] = a, token
					}
				case 2:
					if last[o.who].IsValid() {
						if a, token, err := join(l, r, resume(last[o.who], tokens[o.who])); err == nil {
							last[o.who], tokens[o.who] = a, token
						}
					}
				case 3:
					r.conn.Close()
				case 4:
					r.send(proto.AppendKeepalive(nil))
				case 5:
					time.Sleep(time.Duration(o.addr) * 5 * time.Second)
				case 6:
					r.send(ipPacket(fmt.Sprintf("10.7.0.%d", o.addr), "10.7.0.1"))
				}
				l.settle()
				if _, eof := r.take(); eof || o.kind == 3 {
					clients[o.who] = nil
				}
				if err := l.consistent(); err != nil {
					return fmt.Errorf("after step %d of %+v: %w", i, list, err)
				}
			}
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// consistent compares what the pool, the peers and the table say.
func (l *lab) consistent() error {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	holders := map[netip.Addr]uint64{}
	for id, p := range l.g.peers {
		a := p.port.Addr()
		if !a.IsValid() {
			continue
		}
		if other := holders[a]; other != 0 {
			return fmt.Errorf("%s belongs to connections %d and %d", a, id, other)
		}
		holders[a] = id
		if to, _ := l.g.table.Route(l.m.port, ipPacket("10.7.0.1", a.String())); to != p.port {
			return fmt.Errorf("%s of connection %d leads elsewhere", a, id)
		}
	}
	s := l.g.leases.pool.Stats()
	if s.Live != len(holders) || s.Free+s.Live+s.Held != 13 {
		return fmt.Errorf("pool says %+v, %d connections have an address", s, len(holders))
	}
	return nil
}
