package failover

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Histories at random. That each action names a path or an attempt that is there, that deadlines lie ahead and that there
// are not two voluntary changes in 30 s is checked by the simulator; here it is that what can be used is used, and that the
// attempts are bounded.

// soon is when what is usable must be in use: the longest pause between rounds, a round of attempts by four ways that
// nobody answers and one test that has just begun.
const soon = 30*sec + 5*sec + 5*sec + 4*sec

// segment is for how long a line is what.
type segment struct {
	line line
	long time.Duration
}

func drawLine(t *rapid.T) line {
	l := line{rtt: time.Duration(rapid.SampledFrom([]int{1, 3, 20, 60, 200, 700}).Draw(t, "rtt")) * time.Millisecond}
	switch rapid.SampledFrom([]string{"good", "good", "good", "lossy", "hole", "refused", "dead", "large", "idle", "mute"}).Draw(t, "how") {
	case "lossy":
		l.loss = 0.2
	case "hole":
		l.blackhole = true
	case "refused":
		l.refused = true
	case "dead":
		l.refused, l.reset = true, true
	case "large":
		l.large = rapid.SampledFrom([]int{100, 700, 1300}).Draw(t, "large")
	case "idle":
		l.idle = true
	case "mute":
		l.mute = true
	}
	return l
}

func drawShape(t *rapid.T) shape {
	segments := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) segment {
		return segment{drawLine(t), time.Duration(rapid.SampledFrom([]int{50, 300, 1000, 7000, 40000, 200000}).Draw(t, "ms")) * time.Millisecond}
	}), 1, 8).Draw(t, "line")
	return func(at time.Duration) line {
		for _, s := range segments {
			if at -= s.long; at < 0 {
				return s.line
			}
		}
		return segments[len(segments)-1].line
	}
}

func TestModel(t *testing.T) {
	kinds := []func(shape) simWay{udp, quic, tcp, tls, dns}
	rapid.Check(t, func(rt *rapid.T) {
		var ways []simWay
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(kinds)-1), 1, 4, rapid.ID[int]).Draw(rt, "ways") {
			ways = append(ways, kinds[i](drawShape(rt)))
		}
		s := newSim(rt, Config{Seed: rapid.Uint64().Draw(rt, "seed"), Alone: rapid.IntRange(0, 4).Draw(rt, "alone") == 0}, nil, ways...)
		idle := rapid.SliceOfN(rapid.Bool(), 1, 4).Draw(rt, "idle")
		s.traffic = func(t time.Duration) bool { return !idle[int(t/(20*sec))%len(idle)] }
		for i, at := range rapid.SliceOfN(rapid.IntRange(0, 300), 0, 5).Draw(rt, "network changes") {
			s.at(time.Duration(at)*sec, func() { s.m.NetworkChanged(fmt.Sprint(i), s.now) })
		}
		w := &watcher{s: s, good: make([]time.Duration, len(ways)), busy: !slices.Contains(idle, true)}
		s.check = w.check
		s.run(6 * time.Minute)
		s.wantBoundedAttempts()
	})
}

// A watcher sees to it that what is usable is used soon.
type watcher struct {
	s    *sim
	busy bool            // there is traffic all the time
	good []time.Duration // since when each way is; -1: it is not
	bad  time.Duration   // since when nothing good is in use
}

func (w *watcher) check() {
	now, usable := w.s.time(), time.Duration(-1)
	for i := range w.good {
		switch good := w.s.line(WayID(i)).good(); {
		case !good:
			w.good[i] = -1
		case w.good[i] < 0:
			w.good[i] = now
		}
		if g := w.good[i]; g >= 0 && (usable < 0 || g < usable) {
			usable = g
		}
	}
	p := w.s.paths[w.s.used]
	if usable < 0 || p != nil && !w.broken(p) {
		w.bad = now
	}
	if limit := max(usable, w.bad) + soon; now > limit {
		w.s.fail("%s is in use, though another way can be used since %s", w.s.using(), usable)
	}
}

// broken tells whether a path does not carry what it should. What carries echoes is seen to be broken only by traffic.
func (w *watcher) broken(p *simPath) bool {
	l := w.s.line(p.way)
	return l.blackhole || l.reset || w.busy && (l.idle || l.mute || l.large > 0 && l.large < p.mtu)
}

// wantBoundedAttempts checks that no minute has more attempts than the pauses and tests allow for each way: the rounds of
// a race that begins anew with pauses of 0.1, 0.2 ... s, for each of at most 5 changes of the network, and go on with 2.5 s
// at least; two looks for what is better, and some for a standby.
func (s *sim) wantBoundedAttempts() {
	s.t.Helper()
	limit := len(s.ways) * 60
	for i, at := range s.dials {
		n := i + limit
		if n < len(s.dials) && s.dials[n]-at < time.Minute {
			s.fail("more than %d attempts in a minute from %s on", limit, at)
		}
	}
}

// Events in any order, about ways and paths that are there or not: nothing panics, every Next ends, and what it asks for
// is there.
func TestAnyEvents(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		m := New(Config{Seed: 1, Ways: []Way{{Name: "udp", Class: ClassDatagram, Datagram: true}, {Name: "tcp", Class: ClassTCP}, {Name: "dns", Class: ClassDNS, Polling: true, Datagram: true}}}, nil, now)
		running, paths, last := map[WayID]bool{}, map[PathID][]uint64{}, PathID(0)
		for range rapid.IntRange(0, 200).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 20, 300, 2000, 30000}).Draw(rt, "ms")) * time.Millisecond)
			id, path := WayID(rapid.IntRange(0, 2).Draw(rt, "way")), PathID(rapid.IntRange(0, 6).Draw(rt, "path"))
			path = last - min(path, last)
			switch rapid.IntRange(0, 6).Draw(rt, "event") {
			case 0, 1:
				last++
				m.Dialed(id, last, rapid.IntRange(0, 9).Draw(rt, "sessions") > 0, now)
				paths[last], running[id] = nil, false
			case 2:
				m.Failed(id, errors.New("refused"), now)
				running[id] = false
			case 3:
				m.Lost(path, errors.New("reset"), now)
				delete(paths, path)
			case 4:
				m.Saw(path, now, now)
				m.Due(now.Add(-time.Duration(rapid.IntRange(0, 3000).Draw(rt, "due"))*time.Millisecond), rapid.IntRange(0, 5).Draw(rt, "frames"), now)
			case 5:
				m.NetworkChanged("x", now)
			case 6:
				for _, token := range paths[path] {
					m.Echo(path, token, now)
				}
			}
			actions, next := m.Next(now)
			if !next.IsZero() && !next.After(now) {
				rt.Fatalf("the deadline is not ahead")
			}
			for _, a := range actions {
				_, there := paths[a.Path]
				switch {
				case a.Kind == Dial && running[a.Way], a.Kind == Abandon && !running[a.Way], a.Kind > Abandon && !there:
					rt.Fatalf("%s, running %v, paths %v", a, running, paths)
				case a.Kind == Dial, a.Kind == Abandon:
					running[a.Way] = a.Kind == Dial
				case a.Kind == Close:
					delete(paths, a.Path)
				case a.Kind == Echo:
					paths[a.Path] = append(paths[a.Path], a.Token)
				}
			}
			if again, _ := m.Next(now); len(again) > 0 {
				rt.Fatalf("asked twice, it wants %v", again)
			}
			if used := slices.DeleteFunc(m.Ways(now), func(w WayStatus) bool { return w.State != "in use" }); len(used) > 1 {
				rt.Fatalf("in use: %v", used)
			}
		}
	})
}
