package failover

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The order of attempts: each is refused, so the next one starts at once.
func TestOrder(t *testing.T) {
	refused := always(line{rtt: time.Millisecond, refused: true})
	ways := []simWay{dns(refused), tls(refused), icmp(refused), udp(refused), ssh(refused), tcp(refused), {Way{Name: "vsock", Class: ClassLocal}, refused}}
	at := time.Date(2025, 12, 31, 12, 0, 0, 0, time.UTC) // 12 hours before the simulation
	tests := []struct {
		name    string
		network string
		memory  Memory
		want    string
	}{
		{"by class", "a", nil, "vsock udp tcp tls ssh icmp dns"},
		{"the last winner first", "a", Memory{{"a", "ssh", at}}, "ssh vsock udp tcp tls icmp dns"},
		{"of this network", "b", Memory{{"a", "ssh", at}, {"b", "tls", at}}, "tls vsock udp tcp ssh icmp dns"},
		{"of another network", "c", Memory{{"a", "ssh", at}}, "vsock udp tcp tls ssh icmp dns"},
		{"too long ago", "a", Memory{{"a", "ssh", at.Add(-12*time.Hour - 1)}}, "vsock udp tcp tls ssh icmp dns"},
		{"is there no more", "a", Memory{{"a", "carrier pigeon", at}}, "vsock udp tcp tls ssh icmp dns"},
		{"the network is not known", "", Memory{{"", "ssh", at}}, "vsock udp tcp tls ssh icmp dns"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, Config{}, tt.memory, ways...)
			s.m.Network(tt.network)
			s.run(50 * time.Millisecond)
			var got []string
			for _, l := range s.log {
				if _, l, ok := strings.Cut(l, "dial way "); ok {
					got = append(got, strings.TrimSuffix(strings.Fields(l)[1], ":"))
				}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

// Attempts that nobody answers start after 250 ms; 500 ms before icmp, 1 s before dns.
func TestSteps(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(always(hole)), tcp(always(hole)), icmp(always(hole)), dns(always(hole))).run(4 * sec)
	ms := time.Millisecond
	if want := []time.Duration{0, 250 * ms, 750 * ms, 1750 * ms}; !slices.Equal(s.dials, want) {
		t.Errorf("got %v, want %v", s.dials, want)
	}
}

// The first one that succeeds waits for a better class, but not for long.
func TestWaitForABetterClass(t *testing.T) {
	later := func(d time.Duration) shape { return always(line{rtt: d}) }
	tests := []struct {
		name     string
		udp, tcp shape
		want     string
		limit    time.Duration
	}{
		{"it comes in time", later(108 * time.Millisecond), later(20 * time.Millisecond), "udp", 330 * time.Millisecond},
		{"it does not", later(140 * time.Millisecond), later(20 * time.Millisecond), "tcp", 351 * time.Millisecond},
		{"it has failed", always(line{rtt: 300 * time.Millisecond, refused: true}), later(20 * time.Millisecond), "tcp", 351 * time.Millisecond},
		{"never longer than 300 ms", later(time.Second), later(300 * time.Millisecond), "tcp", 1450 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, Config{}, nil, udp(tt.udp), tcp(tt.tcp)).run(2 * sec)
			if u := s.uses[0]; u.way != tt.want || u.at > tt.limit {
				s.fail("%s after %s, want %s after %s", u.way, u.at, tt.want, tt.limit)
			}
		})
	}
}

// An attempt that succeeds is nothing as long as no echo of full size has come back.
func TestSuccessIsAFullEcho(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := New(Config{Ways: []Way{{Name: "tcp", Class: ClassTCP, Full: 1000}}}, nil, now)
	m.Next(now)
	m.Dialed(0, 7, true, now)
	actions, _ := m.Next(now)
	if len(actions) != 2 || actions[0].Size != smallSize || actions[1].Size != 1000 {
		t.Fatalf("got %v, want a small echo and a full one", actions)
	}
	m.Echo(7, actions[0].Token, now.Add(time.Millisecond))
	m.Echo(7, 12345, now.Add(time.Millisecond))
	if more, _ := m.Next(now.Add(time.Millisecond)); slices.ContainsFunc(more, func(a Action) bool { return a.Kind == Use }) {
		t.Errorf("got %v after the small echo", more)
	}
	m.Echo(7, actions[1].Token, now.Add(2*time.Millisecond))
	if more, _ := m.Next(now.Add(2 * time.Millisecond)); len(more) != 1 || more[0].Kind != Use || more[0].Path != 7 {
		t.Errorf("got %v, want path 7 in use", more)
	}
}

func TestATestEnds(t *testing.T) {
	mute := line{rtt: fine.rtt, mute: true}
	s := newSim(t, Config{}, nil, tcp(always(mute))).run(5*sec + 100*time.Millisecond)
	if len(s.paths) != 0 || len(s.dials) != 1 {
		s.fail("%d paths and %d attempts, want none and 1", len(s.paths), len(s.dials))
	}
	if got := s.m.Ways(s.now)[0].Fault; got != "it was attached, but no echo of 1400 bytes came back for 5 s" {
		t.Errorf("the user reads %q", got)
	}
}

// When all fail, the pauses double from 0.2 s to 30 s, each between half and all of that.
func TestRounds(t *testing.T) {
	spread := map[time.Duration]bool{}
	seeds(t, func(t *testing.T, c Config) {
		s := newSim(t, c, nil, tcp(always(dead)))
		s.traffic = func(time.Duration) bool { return false }
		s.run(5 * time.Minute)
		want := 200 * time.Millisecond
		spread[s.dials[1]] = true
		for i, at := range s.dials[1:] {
			pause := at - s.dials[i] - 2*dead.rtt
			if pause < want/2 || pause > want {
				s.fail("pause %d is %s, want %s at most, and half of it at least", i, pause, want)
			}
			want = min(2*want, 30*sec)
		}
		if n := len(s.dials); n < 15 {
			s.fail("%d attempts", n)
		}
	})
	if len(spread) < 3 {
		t.Errorf("clients come back all at once, after %v", spread)
	}
}

// While traffic is due, no pause is longer than 5 s: somebody waits. What has waited for less than that is tried once the
// traffic comes, and not at the end of a long pause that began when there was none.
func TestRoundsWhileTrafficIsDue(t *testing.T) {
	seeds(t, func(t *testing.T, c Config) {
		idle := true
		s := newSim(t, c, nil, tcp(always(dead)))
		s.traffic = func(time.Duration) bool { return !idle }
		s.run(10 * time.Minute)
		idle = false
		n, from := len(s.dials), s.time()
		s.run(from + time.Minute)
		before := max(from, s.dials[n-1]+2500*time.Millisecond)
		for i, at := range s.dials[n:] {
			if pause := at - before; pause > 5*sec+2*dead.rtt {
				s.fail("attempt %d comes after %s", i, pause)
			} else if i > 0 && pause < 2500*time.Millisecond {
				s.fail("attempt %d comes %s after the one before", i, pause)
			}
			before = at
		}
		idle = true
		s.run(s.time() + time.Minute)
		n = len(s.dials)
		if s.run(s.time() + 5*time.Minute); len(s.dials)-n > 5*60/15+1 {
			s.fail("%d attempts in 5 minutes, and nobody waits", len(s.dials)-n)
		}
	})
}

// A gateway that takes a path and resets it a moment later is not hammered.
func TestAcceptedAndReset(t *testing.T) {
	s := newSim(t, Config{}, nil, tcp(func(t time.Duration) line {
		return line{rtt: 20 * time.Millisecond, reset: t%(200*time.Millisecond) >= 190*time.Millisecond}
	}))
	s.run(10 * time.Minute)
	if n := len(s.dials); n > 180 || len(s.uses) < 10 {
		s.fail("%d attempts, %d uses in 10 minutes", n, len(s.uses))
	}
}

// After 30 s without trouble the first attempt is made at once, and the pauses begin anew.
func TestSteady(t *testing.T) {
	s := newSim(t, Config{}, nil, tcp(func(t time.Duration) line {
		if t < 20*sec || t >= 90*sec && t < 90*sec+100*time.Millisecond {
			return dead
		}
		return fine
	})).run(62 * sec)
	n := len(s.dials)
	s.run(90*sec + 500*time.Millisecond).wantUse("tcp")
	if at := s.dials[n]; at > 90*sec+20*time.Millisecond {
		s.fail("dialled at %s", at)
	}
}

func TestPenaltiesDouble(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := New(Config{Ways: []Way{{Name: "udp"}}}, nil, now)
	for _, want := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 600, 600, 600} {
		m.punish(0, "dead", now)
		if got := m.Ways(now)[0].Until.Sub(now); got != want*time.Second {
			t.Errorf("got %s, want %d s", got, want)
		}
		now = now.Add(want*time.Second + time.Second)
	}
	now = now.Add(10 * time.Minute)
	m.punish(0, "dead", now)
	if got := m.Ways(now)[0].Until.Sub(now); got != 5*time.Second {
		t.Errorf("got %s after a good while, want 5 s", got)
	}
}

// A way that died is tried last, but it is tried: it may be the only one.
func TestAPenaltyIsNoBan(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(func(t time.Duration) line {
		return line{rtt: fine.rtt, reset: t >= 60*sec && t < 60*sec+20*time.Millisecond}
	}), quic(from(dead, 59*sec, dead))).run(61 * sec)
	s.wantUse("udp")
	s.wantGap(300 * time.Millisecond)
}

func TestFaster(t *testing.T) {
	rtt := func(d time.Duration) simWay { return tcp(always(line{rtt: d * time.Millisecond})) }
	other := func(d time.Duration) simWay {
		return simWay{Way{Name: "tcp6", Class: ClassTCP}, always(line{rtt: d * time.Millisecond})}
	}
	datagram := func(d time.Duration) simWay { return udp(always(line{rtt: d * time.Millisecond})) }
	poll := func(d time.Duration) simWay { return dns(always(line{rtt: d * time.Millisecond})) }
	tests := []struct {
		name string
		a, b simWay // a is used first
		want string
	}{
		{"38 % and 21 ms, same class", rtt(55), other(34), "tcp6"},
		{"29 %", rtt(100), other(71), "tcp"},
		{"9 ms", rtt(20), other(11), "tcp"},
		{"a class below", datagram(55), rtt(34), "tcp"},
		{"a class below, 29 %", datagram(100), rtt(71), "udp"},
		{"by polling", rtt(200), poll(20), "tcp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, Config{}, nil, tt.a, tt.b).run(10 * time.Minute)
			s.wantUse(tt.want)
			if len(s.uses) > 2 {
				s.fail("%d changes", len(s.uses))
			}
			if i := slices.IndexFunc(s.uses, func(u simUse) bool { return u.voluntary }); i >= 0 && (s.uses[i].at < 37*sec || s.uses[i].at > 45*sec) {
				s.fail("changed after %s", s.uses[i].at)
			}
		})
	}
}

func TestTCPIsBetterWhenTheGatewayIsNear(t *testing.T) {
	near := line{rtt: 2 * time.Millisecond}
	tests := []struct {
		name     string
		udp, tcp line
		want     string
	}{
		{"2 ms", near, near, "tcp"},
		{"2 ms, and loss", line{rtt: near.rtt, loss: 0.1}, near, "udp"},
		{"6 ms", line{rtt: 6 * time.Millisecond}, line{rtt: 6 * time.Millisecond}, "udp"},
		{"2 ms, but not by tcp", near, fine, "udp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, Config{}, nil, udp(always(tt.udp)), tcp(always(tt.tcp))).run(10 * time.Minute)
			s.wantUse(tt.want)
			if len(s.uses) > 2 {
				s.fail("%d changes", len(s.uses))
			}
		})
	}
}

func TestStandby(t *testing.T) {
	other := simWay{Way{Name: "tcp6", Class: ClassTCP}, always(fine)}
	tests := []struct {
		name string
		ways []simWay
		want string // paths
	}{
		{"of a different class", []simWay{tcp(always(fine)), other, tls(always(fine)), ssh(always(fine))}, "tcp tls"},
		{"the best that there is", []simWay{tcp(always(fine)), tls(always(hole)), ssh(always(dead)), dns(always(slow))}, "tcp dns"},
		{"none of the same class", []simWay{tcp(always(fine)), other}, "tcp"},
		{"a single way", []simWay{tcp(always(fine))}, "tcp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, Config{}, nil, tt.ways...).run(25 * sec)
			var got []string
			for id := range s.last + 1 {
				if p := s.paths[id]; p != nil {
					got = append(got, s.ways[p.way].Name)
				}
			}
			if strings.Join(got, " ") != tt.want {
				s.fail("got %v, want %s", got, tt.want)
			}
		})
	}
}

// A standby that dies is replaced, and nobody notices.
func TestStandbyDies(t *testing.T) {
	s := newSim(t, Config{}, nil, tcp(always(fine)), tls(from(fine, 60*sec, hole)), ssh(always(fine))).run(90 * sec)
	if len(s.uses) != 1 || len(s.paths) != 2 || s.paths[3] == nil || s.ways[s.paths[3].way].Name != "ssh" {
		s.fail("%d changes, paths %v; want ssh in the place of tls", len(s.uses), s.paths)
	}
}

// A standby that can not be had is asked for less and less often, until it was there.
func TestStandbyIsRetried(t *testing.T) {
	s := newSim(t, Config{}, nil, tcp(always(fine)), tls(func(t time.Duration) line {
		if t < 80*sec || t > 200*sec {
			return dead
		}
		return fine
	})).run(4 * time.Minute)
	var got []time.Duration
	for _, at := range s.dials {
		got = append(got, at.Round(sec))
	}
	if want := []time.Duration{0, 0, 5 * sec, 15 * sec, 35 * sec, 75 * sec, 155 * sec, 205 * sec, 210 * sec, 220 * sec}; !slices.Equal(got, want) {
		s.fail("got %v, want %v", got, want)
	}
}

// Changes that never end are no reason to wait for ever.
func TestAStormOfNetworkChanges(t *testing.T) {
	s := newSim(t, Config{}, nil, tcp(always(fine)))
	s.traffic = func(time.Duration) bool { return false }
	s.run(30*sec + 500*time.Millisecond)
	before := s.echoes
	for i := range 100 {
		s.at(31*sec+time.Duration(i)*100*time.Millisecond, func() { s.m.NetworkChanged("a", s.now) })
	}
	if s.run(32 * sec); s.echoes == before {
		s.fail("nothing was probed for a second")
	}
	if s.run(42 * sec); s.echoes > before+15 || len(s.dials) > 15 || len(s.uses) > 1 {
		s.fail("%d echoes, %d attempts, %d changes", s.echoes-before, len(s.dials), len(s.uses))
	}
}

// A gateway without sessions has one connection at a time, and nothing is asked of it.
func TestPlain(t *testing.T) {
	reset := func(t time.Duration) line { return line{rtt: fine.rtt, reset: t >= 60*sec && t < 61*sec} }
	for name, c := range map[string]Config{"known": {Alone: true}, "not known": {}} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, c, nil, tcp(reset), tls(always(fine)))
			s.plain = true
			s.check = func() {
				if len(s.paths) > 1 {
					s.fail("%d connections", len(s.paths))
				}
			}
			s.at(30*sec, func() { s.m.NetworkChanged("b", s.now) })
			s.run(90 * sec)
			if s.wantUse("tls"); s.echoes != 0 || len(s.dials) != 2 || len(s.uses) != 2 {
				s.fail("%d echoes, %d attempts, %d changes", s.echoes, len(s.dials), len(s.uses))
			}
		})
	}
}

func TestAloneTriesOneAtATime(t *testing.T) {
	s := newSim(t, Config{Alone: true}, nil, udp(always(hole)), tcp(always(fine)))
	s.plain = true
	s.run(6 * sec).wantUse("tcp")
	if want := []time.Duration{0, 5 * sec}; !slices.Equal(s.dials, want) {
		s.fail("dialled at %v, want %v", s.dials, want)
	}
}

// Alone, but with echoes: what is silent is found, and dialled anew only when it is dead.
func TestAloneWithSessions(t *testing.T) {
	s := newSim(t, Config{Alone: true}, nil, tcp(from(fine, 60*sec, line{rtt: fine.rtt, forgets: 60 * sec})), tls(always(fine)))
	s.check = func() {
		if len(s.paths) > 1 {
			s.fail("%d connections", len(s.paths))
		}
	}
	s.run(70 * sec).wantUse("tls")
	s.wantGap(2 * sec)
}

// What comes too late is closed, and what is not known is no matter.
func TestStrangers(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := New(Config{Ways: []Way{{Name: "tcp", Class: ClassTCP}}}, nil, now)
	m.Failed(0, errors.New("refused"), now)
	m.Dialed(0, 7, true, now)
	m.Lost(8, errors.New("reset"), now)
	m.Saw(8, now, now)
	m.Echo(8, 1, now)
	actions, _ := m.Next(now)
	if got := fmt.Sprint(actions); got != "[close path 7, 0 bytes: nobody waits for it any more dial way 0: tcp: the first one in order]" {
		t.Errorf("got %s", got)
	}
	if none, next := New(Config{}, nil, now).Next(now); len(none) > 0 || next != Never {
		t.Errorf("without a way: got %v at %s", none, next)
	}
}

// A suspicion ends with what was heard after it; what a clock of the future has heard is no proof.
func TestHeard(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := New(Config{Ways: []Way{{Name: "tcp", Class: ClassTCP}}}, nil, now)
	p := newPath(7, 0, &m.ways[0], now.Add(-time.Minute))
	m.paths = []*path{p}
	m.suspect(p, now)
	for _, tt := range []struct {
		heard time.Duration
		want  bool
	}{{-time.Second, true}, {0, true}, {time.Hour, true}, {time.Millisecond, false}} {
		m.Saw(7, now.Add(tt.heard), now.Add(time.Second))
		if got := !p.suspect.IsZero(); got != tt.want {
			t.Errorf("heard %s after the suspicion: suspect %t", tt.heard, got)
		}
	}
}

func TestMemory(t *testing.T) {
	s := newSim(t, Config{}, nil, tcp(always(fine))).run(60 * sec)
	if got := s.m.Memory(s.now); len(got) != 0 {
		t.Errorf("got %v, though the network is not known", got)
	}
	s = newSim(t, Config{}, nil, udp(from(dead, 60*sec, fine)), tcp(always(fine)))
	s.m.Network("home")
	s.run(9 * sec)
	if got := s.m.Memory(s.now); len(got) != 0 {
		t.Errorf("got %v after 9 s: what was in use for a moment is no winner", got)
	}
	s.run(50 * sec)
	s.at(50*sec, func() { s.m.NetworkChanged("train", s.now) })
	s.run(30 * time.Minute)
	b, err := json.Marshal(s.m.Memory(s.now))
	if want := `[{"network":"train","way":"udp","at":"2026-01-01T00:30:00Z"},{"network":"home","way":"tcp","at":"2026-01-01T00:00:50Z"}]`; err != nil || string(b) != want {
		t.Errorf("got %s, %v; want %s", b, err, want)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := Memory{{"tomorrow", "udp", now.Add(time.Hour)}, {"yesterday", "udp", now.Add(-24 * time.Hour)}}
	for i := range 1000 {
		m = append(m, Winner{fmt.Sprint(i), "udp", now}, Winner{"0", "again", now})
	}
	got := m.fresh(now, 24*time.Hour)
	if len(got) != maxMemory || got.winner("0") != "udp" || got.winner("tomorrow") != "" || got.winner("yesterday") != "" {
		t.Errorf("got %d: %v", len(got), got)
	}
	got = got.with(Winner{"new", "tcp", now}).with(Winner{"3", "tcp", now})
	if len(got) != maxMemory || got[0].Way != "tcp" || got[1].Network != "new" || got.winner("3") != "tcp" || got.winner("63") != "" {
		t.Errorf("got %d: %v", len(got), got)
	}
}

// What the user reads, line by line.
func TestStory(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(func(t time.Duration) line {
		if t >= 60*sec && t < 80*sec {
			return hole
		}
		return fine
	}), tcp(always(slow))).run(62 * sec)
	want := `
        0s  dial way 0: udp: the first one in order
      40ms  way 0: attached as path 1
      60ms  use path 1, again false, also 0: udp answers
      60ms  dial way 1: tcp: to stand by for udp
     220ms  way 1: attached as path 2
   1m0.29s  use path 2, again true, also 1: udp is silent for 320 ms
   1m0.69s  close path 1, 0 bytes: udp: 3 echoes are unanswered, silent for 720 ms`
	if got := "\n" + s.story(); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if w := s.m.Ways(s.now)[1]; w.Until.Sub(s.start) > 66*sec {
		t.Errorf("udp is punished until %s: for one death it is 5 s", w.Until.Sub(s.start))
	}
	var lines []string
	for _, w := range s.m.Ways(s.now) {
		lines = append(lines, w.String())
	}
	if got, want := strings.Join(lines, "\n"), "tcp: in use, 80 ms, 1400 bytes\nudp: penalised, 3 echoes are unanswered, silent for 720 ms"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.run(125 * sec)
	if last := s.log[len(s.log)-1]; !strings.HasSuffix(last, "again false, also 0: udp is of a better class for 10 s") {
		t.Errorf("got %q", last)
	}
}

// A way whose path the gateway has closed in good order is as good as before: it is used again at once.
func TestEnded(t *testing.T) {
	s := newSim(t, Config{}, nil, udp(always(fine)), tcp(always(slow))).run(60 * sec)
	for _, p := range slices.Clone(s.m.paths) {
		s.m.Ended(p.id, errors.New("the session is as old as one may become"), s.now)
		s.remove(p.id)
	}
	s.run(62 * sec)
	s.wantUse("udp")
	if w := s.m.Ways(s.now)[0]; !w.Until.IsZero() {
		t.Errorf("punished until %s", w.Until)
	}
}
