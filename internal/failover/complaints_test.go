package failover

import (
	"slices"
	"testing"
	"time"
)

// Each test is named after what users of other systems complain about.

// seeds runs f with different jitter.
func seeds(t *testing.T, f func(t *testing.T, c Config)) {
	t.Helper()
	for seed := range uint64(8) {
		f(t, Config{Seed: seed})
	}
}

// flaps counts the voluntary changes that were undone in a while, at most in any 5 minutes.
func (s *sim) flaps() (most int) {
	var at []time.Duration
	for i, u := range s.uses {
		if i > 0 && s.uses[i-1].voluntary && !u.voluntary && u.at-s.uses[i-1].at < 5*time.Minute {
			at = append(at, u.at)
		}
	}
	for i := range at {
		n := 0
		for _, o := range at[i:] {
			if o-at[i] < 5*time.Minute {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func TestNeverReturnsToTheGoodCarrierAfterAFallback(t *testing.T) {
	for name, bad := range map[string]line{"blackholed": hole, "reset": dead, "large packets lost": {rtt: fine.rtt, large: 100}, "unacknowledged": {rtt: fine.rtt, idle: true}} {
		t.Run(name, func(t *testing.T) {
			seeds(t, func(t *testing.T, c Config) {
				healed := 100*sec + time.Duration(c.Seed)*7*sec
				s := newSim(t, c, nil, udp(from(fine, 60*sec, bad)), tcp(always(fine)), dns(always(slow)))
				s.ways[0].shape = func(t time.Duration) line {
					if t >= 60*sec && t < healed {
						return bad
					}
					return fine
				}
				s.run(70 * sec).wantUse("tcp")
				if !bad.idle { // else it looks well while it is tested, and may have been used too often
					s.run(healed + 45*sec).wantUse("udp")
				}
				if n := s.flaps(); n > 2 {
					s.fail("%d flaps in 5 minutes", n)
				}
			})
		})
	}
}

func TestFallsBackTooEagerlyAndFlaps(t *testing.T) {
	cycle := func(good, bad time.Duration, b line) shape {
		return func(t time.Duration) line {
			if t < 60*sec || t%(good+bad) < good {
				return fine
			}
			return b
		}
	}
	tests := []struct {
		name string
		udp  shape
		uses int // at most, in half an hour
	}{
		{"2 % loss", always(line{rtt: fine.rtt, loss: 0.02}), 1},
		{"a hole of 200 ms now and then", cycle(20*sec, 200*time.Millisecond, hole), 1},
		{"a hole of 400 ms every minute", cycle(60*sec, 400*time.Millisecond, hole), 30},
		{"20 s on, 20 s off", cycle(20*sec, 20*sec, hole), 30},
		{"20 s on, 20 s refused", cycle(20*sec, 20*sec, dead), 30},
		{"it answers, but nothing is acknowledged", from(fine, 60*sec, line{rtt: fine.rtt, idle: true}), 16},
		{"a round trip that grows slowly", func(t time.Duration) line { return line{rtt: fine.rtt + t/2000} }, 2}, // tcp is faster in the end
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(2) {
				s := newSim(t, Config{Seed: seed}, nil, udp(tt.udp), tcp(always(slow)), dns(always(slow))).run(30 * time.Minute)
				if len(s.uses) > tt.uses || s.flaps() > 2 {
					s.fail("%d changes, %d flaps in 5 minutes; want at most %d and 2", len(s.uses), s.flaps(), tt.uses)
				}
			}
		})
	}
}

// A packet now and then, of which some are lost: nobody has anything to acknowledge then, and the way is as good as it was.
func TestASinglePacketIsLost(t *testing.T) {
	for name, ways := range map[string][]simWay{"one way": {udp(always(line{rtt: fine.rtt, loss: 0.02}))}, "and a standby": {udp(always(line{rtt: fine.rtt, loss: 0.02})), tcp(always(fine))}} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, Config{}, nil, ways...)
			s.traffic = func(t time.Duration) bool { return t%(2*sec) == 0 }
			s.run(15 * time.Minute)
			if len(s.uses) > 3 { // it happens that the echo is lost, too
				s.fail("%d changes", len(s.uses))
			}
		})
	}
}

// The silence is noticed though only two packets wait.
func TestSparseTrafficByADeadPath(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(fine, 60*sec, hole)), tcp(always(fine)))
	s.traffic = func(t time.Duration) bool { return t%(4*sec) == 0 }
	s.run(60*sec + 700*time.Millisecond).wantUse("tcp")
}

// A suspicion that proves false is taken back, once; the traffic has not waited for the proof.
func TestBackAfterAFalseSuspicion(t *testing.T) {
	blip := func(t time.Duration) line {
		if t >= 60*sec && t < 60*sec+400*time.Millisecond {
			return hole
		}
		return fine
	}
	s := newSim(t, Config{}, nil, udp(blip), tcp(always(fine)), dns(always(slow))).run(62 * sec)
	s.wantUse("udp")
	s.wantGap(350 * time.Millisecond)
	if len(s.uses) != 3 || s.also != 0 || len(s.dials) != 2 {
		s.fail("got %d changes, %d attempts, copy to path %d; want udp, tcp, udp, two attempts at the start and no copy", len(s.uses), len(s.dials), s.also)
	}
}

func TestThePreCheckPassesButTheHandshakeIsRefused(t *testing.T) {
	refused := line{rtt: fine.rtt, refused: true}
	s := newSim(t, Config{}, nil, udp(always(refused)), quic(always(refused)), tcp(always(fine))).run(sec)
	s.wantUse("tcp")
	if at := s.uses[0].at; at > 150*time.Millisecond { // two refusals, one attempt and its echo
		t.Errorf("in use after %s, though nobody had to be waited for", at)
	}
	if got := s.m.Ways(s.now)[0]; got.Fault != "connection refused" {
		t.Errorf("the user reads %q", got)
	}
}

func TestPingsPassButDataDoesNot(t *testing.T) {
	stalled := func(rtt time.Duration) line { return line{rtt: rtt, idle: true} }
	s := newSim(t, Config{}, nil, udp(from(fine, 60*sec, stalled(fine.rtt))), tcp(always(fine))).run(70 * sec)
	s.wantUse("tcp")
	s.wantGap(2 * sec)
	if s.also != 0 {
		s.fail("path %d still gets a copy", s.also)
	}

	// Other bytes keep coming, so it is never silent.
	s = newSim(t, Config{}, nil, udp(from(fine, 60*sec, stalled(fine.rtt))), tcp(always(fine)))
	s.check = func() {
		if p := s.paths[s.used]; p != nil {
			p.heard = s.now
		}
	}
	s.run(61*sec + 700*time.Millisecond).wantUse("tcp")
	s.wantGap(2 * sec)
}

// What receives but is not heard at the other end is left, also while nothing is to be acknowledged.
func TestEchoesAreLostWhileOtherBytesCome(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(fine, 60*sec, line{rtt: fine.rtt, mute: true})), tcp(always(fine)))
	s.run(68 * sec).wantUse("tcp")
	if d := len(s.paths); d != 1 {
		s.fail("%d paths are left, want the one in use", d)
	}
}

func TestOnlyLargePacketsDie(t *testing.T) {
	tests := []struct {
		name  string
		way   func(shape) simWay
		large int
		use   string
		mtu   int
	}{
		{"1399 pass", udp, 1399, "udp", 1220},
		{"1220 pass", udp, 1220, "udp", 1220},
		{"1100 pass", udp, 1100, "udp", 940},
		{"510 pass", udp, 510, "udp", 500},
		{"only small ones pass", udp, 100, "tls", 1400},
		{"of a stream", tcp, 1399, "tls", 1400},
	}
	for _, tt := range tests {
		narrow := line{rtt: fine.rtt, large: tt.large}
		t.Run(tt.name, func(t *testing.T) {
			seeds(t, func(t *testing.T, c Config) {
				s := newSim(t, c, nil, tt.way(from(fine, 60*sec, narrow)), tls(always(fine))).run(63 * sec)
				s.wantUse(tt.use)
				if mtu := s.paths[s.used].mtu; mtu != tt.mtu || s.gapLarge > 2*sec {
					s.fail("large packets stood still for %s, and have %d bytes now; want at most 2s and %d bytes", s.gapLarge, mtu, tt.mtu)
				}
			})
		})
		t.Run(tt.name+", from the start", func(t *testing.T) {
			s := newSim(t, Config{}, nil, tt.way(always(narrow)), tls(always(fine))).run(2 * sec)
			if s.uses[0].way == s.ways[0].Name && s.paths[s.used].mtu != tt.mtu || len(s.uses) > 1 {
				s.fail("%v are in use with %d bytes, want %s with %d", s.uses, s.paths[s.used].mtu, tt.use, tt.mtu)
			}
		})
	}
}

func TestLargePacketsPassAgain(t *testing.T) {
	narrow := line{rtt: fine.rtt, large: 1300}
	s := newSim(t, Config{}, nil, udp(func(t time.Duration) line {
		if t >= 60*sec && t < 90*sec {
			return narrow
		}
		return fine
	})).run(80 * sec)
	if mtu := s.paths[s.used].mtu; mtu != 1220 {
		s.fail("%d bytes, want 1220", mtu)
	}
	if mtu := s.run(130 * sec).paths[s.used].mtu; mtu != 1400 {
		s.fail("%d bytes, want 1400", mtu)
	}
}

// The full size is tried again now and then, not all the time.
func TestTheFullSizeIsTriedNowAndThen(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(fine, 60*sec, line{rtt: fine.rtt, large: 1300}))).run(63 * sec)
	if s.sizes[1400] = 0; s.run(85 * sec).sizes[1400] != 0 {
		s.fail("tried again within 25 s")
	}
	if n := s.run(11 * time.Minute).sizes[1400]; n < 7 || n > 11 {
		s.fail("tried %d times in 10 minutes", n)
	}
}

// A way of a better class that loses packets is never clean for 10 s.
func TestABetterClassWithLoss(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(hole, 20*sec, line{rtt: fine.rtt, loss: 0.2})), tcp(always(fine))).run(5 * time.Minute)
	if s.wantUse("tcp"); len(s.uses) != 1 {
		s.fail("%d changes", len(s.uses))
	}
}

// What is quick to answer and carries nothing does not win again and again; what is slow and good is used in the end.
func TestAQuickLiar(t *testing.T) {
	liar := line{rtt: time.Millisecond, idle: true}
	for name, good := range map[string]simWay{"of its class": udp(always(line{rtt: 700 * time.Millisecond})), "of another one": tls(always(line{rtt: 700 * time.Millisecond}))} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, Config{}, nil, good, quic(always(liar))).run(10 * sec)
			s.wantUse(good.Name)
			s.wantGap(5 * sec)
		})
	}
	s := newSim(t, Config{}, nil, quic(always(liar))).run(5 * sec)
	if s.last < 3 {
		s.fail("the only path that there is was not left, though it carries nothing")
	}
}

// Loss is no matter of size.
func TestLossIsNotTakenForLargePacketsDying(t *testing.T) {
	seeds(t, func(t *testing.T, c Config) {
		s := newSim(t, c, nil, udp(always(line{rtt: fine.rtt, loss: 0.05}))).run(10 * time.Minute)
		if s.using() == "udp" && s.paths[s.used].mtu != 1400 {
			s.fail("%d bytes", s.paths[s.used].mtu)
		}
	})
}

func TestAWiFiChangeGoesUnnoticed(t *testing.T) {
	forgets := from(fine, 60*sec, line{rtt: fine.rtt, forgets: 60 * sec})
	for name, ways := range map[string][]simWay{
		"one way":                    {tcp(forgets)},
		"three ways":                 {udp(forgets), tcp(forgets), dns(forgets)},
		"the best is blocked there":  {udp(from(fine, 60*sec, dead)), tcp(forgets)},
		"the best is only left here": {udp(from(dead, 60*sec, fine)), tcp(forgets)},
	} {
		t.Run(name, func(t *testing.T) {
			seeds(t, func(t *testing.T, c Config) {
				s := newSim(t, c, nil, ways...)
				s.at(60*sec, func() { s.m.NetworkChanged("b", s.now) })
				s.run(59 * sec)
				s.gap = 0
				s.run(62 * sec)
				for _, w := range s.m.Ways(s.now) {
					if !w.Until.IsZero() {
						s.fail("%s is punished for the network", w.Name)
					}
				}
				s.run(70 * sec)
				s.wantGap(500 * time.Millisecond)
				if s.used == 0 {
					s.fail("nothing is in use")
				}
			})
		})
	}
}

// A change that does not touch the connection changes nothing; one that comes in a hundred parts is one.
func TestANetworkChangeThatMattersNot(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(always(fine)), tcp(always(fine)))
	for i := range 100 {
		s.at(60*sec+time.Duration(i)*sec/200, func() { s.m.NetworkChanged("a", s.now) })
	}
	s.run(70 * sec)
	if len(s.uses) != 1 || len(s.dials) > 4 {
		s.fail("%d changes, %d attempts; want 1 and at most 4", len(s.uses), len(s.dials))
	}
	s.wantGap(150 * time.Millisecond)
}

// Where nothing worked, the pauses are long; elsewhere it is tried at once.
func TestANetworkChangeEndsThePause(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(hole, 10*time.Minute, dead)), tcp(from(dead, 10*time.Minute, fine)))
	s.at(10*time.Minute, func() { s.m.NetworkChanged("b", s.now) })
	s.run(10*time.Minute + 500*time.Millisecond).wantUse("tcp")
}

// What was begun by the old network is not waited for.
func TestANetworkChangeEndsAttemptsAndTests(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := New(Config{Ways: []Way{{Name: "udp", Class: ClassDatagram}, {Name: "tcp", Class: ClassTCP}}}, nil, now)
	m.Next(now)
	m.Dialed(0, 7, true, now)
	now = now.Add(250 * time.Millisecond)
	m.Next(now)
	m.NetworkChanged("b", now)
	now = now.Add(200 * time.Millisecond)
	actions, _ := m.Next(now)
	var got []Kind
	for _, a := range actions {
		got = append(got, a.Kind)
	}
	if !slices.Equal(got, []Kind{Abandon, Close, Dial}) {
		t.Errorf("got %v", actions)
	}
}

// On another network nothing is held against a way.
func TestANetworkChangeEndsThePenalties(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(fine, 60*sec, dead)), tcp(always(fine))).run(61 * sec)
	if w := s.m.Ways(s.now)[1]; w.State != "penalised" {
		s.fail("got %s", w)
	}
	s.m.flaps = []time.Time{s.now, s.now}
	s.at(62*sec, func() { s.m.NetworkChanged("b", s.now) })
	if s.run(63 * sec); len(s.m.flaps) > 0 {
		s.fail("mistakes on the network before count")
	}
	for _, w := range s.m.Ways(s.now) {
		if !w.Until.IsZero() {
			s.fail("got %s", w)
		}
	}
}

// An idle session costs a small echo now and then, and nothing is tested for it.
func TestTheIdleRadioNeverSleeps(t *testing.T) {
	for name, standby := range map[string]simWay{"tcp": tcp(always(fine)), "dns": dns(always(slow))} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, Config{}, nil, udp(always(hole)), tls(always(fine)), standby)
			s.traffic = func(t time.Duration) bool { return t < 10*sec }
			s.run(2 * time.Minute)
			s.echoes, s.dials, s.nexts = 0, nil, 0
			s.run(12 * time.Minute)
			warm := 40
			if name == "dns" {
				warm = 10
			}
			if s.echoes < 40+warm-2 || s.echoes > 40+warm+2 {
				s.fail("%d echoes in 10 minutes, want %d", s.echoes, 40+warm)
			}
			if s.nexts > 8*s.echoes { // one for each echo, its answer, and when it may be late or lost
				s.fail("woken %d times", s.nexts)
			}
		})
	}
}

func TestADeadIdleSessionGoesUnnoticed(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(fine, 60*sec, hole)), tcp(always(fine)))
	s.traffic = func(t time.Duration) bool { return t < 10*sec }
	s.run(60*sec + 16*sec).wantUse("tcp")
}

// What was better all night is looked for with the first traffic of the morning.
func TestTheMorningAfter(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(from(hole, 60*sec, fine)), tcp(always(fine)), tls(always(fine)))
	s.traffic = func(t time.Duration) bool { return t < 25*sec || t > time.Hour }
	s.run(time.Hour)
	s.wantUse("tcp")
	s.run(time.Hour + 12*sec).wantUse("udp")
}
