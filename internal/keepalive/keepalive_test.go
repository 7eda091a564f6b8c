package keepalive

import (
	"testing"
	"testing/synctest"
	"time"
)

// life runs a prober in fake time for d. send and hear say in which seconds bytes go out and come in.
func life(p *Prober, d time.Duration, echo bool, send, hear func(second int) bool) (probes []time.Duration, dead time.Duration) {
	start := time.Now()
	sent, heard := start, start
	for next := start; time.Since(start) < d; {
		second := int(time.Since(start) / time.Second)
		if send(second) {
			sent = time.Now()
		}
		if hear(second) {
			heard = time.Now()
		}
		if !time.Now().Before(next) {
			action, at := p.Next(time.Now(), sent, heard)
			switch action {
			case Send:
				probes = append(probes, time.Since(start))
				sent = time.Now()
				if echo {
					heard = time.Now()
				}
			case Dead:
				return probes, time.Since(start)
			}
			next = at
		}
		time.Sleep(time.Second)
	}
	return probes, 0
}

func never(int) bool  { return false }
func always(int) bool { return true }

func TestProber(t *testing.T) {
	tests := []struct {
		name       string
		echoes     bool // the Echo field
		answers    bool // the other side answers probes
		send, hear func(int) bool
		probes     int
		dead       time.Duration
	}{
		{"idle, answered", false, true, never, never, 7, 0},
		{"idle, not answered", false, false, never, never, 1, 25 * time.Second},
		{"we send all the time", false, false, always, never, 0, 0},
		{"we send all the time, answers are sure", true, false, always, never, 1, 25 * time.Second},
		{"they send all the time", false, false, never, always, 7, 0},
		{"they stop after a minute", false, false, never, func(s int) bool { return s < 60 }, 4, 70 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Prober{Interval: 15 * time.Second, Answer: 10 * time.Second, Echo: tt.echoes}
				probes, dead := life(p, 2*time.Minute, tt.answers, tt.send, tt.hear)
				if len(probes) != tt.probes || dead != tt.dead {
					t.Errorf("got probes at %v, dead at %s; want %d probes, dead at %s", probes, dead, tt.probes, tt.dead)
				}
			})
		})
	}
}

// The last answer may be just gone when the line dies, and it is noticed within 30 s.
// exam: F6
func TestDeadWithin30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Prober{Interval: 15 * time.Second, Answer: DefaultAnswer}
		_, dead := life(p, 2*time.Minute, false, never, never)
		if dead == 0 || dead > 30*time.Second {
			t.Errorf("noticed after %s, want at most 30s", dead)
		}
	})
}

// A probe that waits in our own queue is not late while that goes out; once it is out, or nothing goes
// out any more, the time for the answer runs.
func TestBehind(t *testing.T) {
	const queue = 30 // seconds that a probe takes to go out
	for name, tt := range map[string]struct {
		send func(int) bool
		dead time.Duration
	}{
		"a slow line":          {always, 0},
		"a line that is stuck": {func(s int) bool { return s < 20 }, 29 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Prober{Interval: 15 * time.Second, Answer: DefaultAnswer, Echo: true, Behind: true}
				answered := func(s int) bool { return s > 15 && (s-15)%queue == 0 && tt.send(s) }
				if _, dead := life(p, 2*time.Minute, false, tt.send, answered); dead != tt.dead {
					t.Errorf("dead at %s, want %s", dead, tt.dead)
				}
			})
		})
	}
}

// An interval shorter than the time for an answer is kept, too.
func TestShortInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Prober{Interval: 2 * time.Second, Answer: DefaultAnswer}
		if probes, dead := life(p, time.Minute, true, never, never); len(probes) < 20 || dead != 0 {
			t.Errorf("%d probes in a minute, dead at %s; want one every 2 or 3 s", len(probes), dead)
		}
	})
}

// exam: R2, R3
func TestJudge(t *testing.T) {
	limits := Limits{Join: 10 * time.Second, Frame: 10 * time.Second, Write: 10 * time.Second, Idle: time.Minute}
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	tests := []struct {
		name string
		seen Seen
		want Verdict
	}{
		{"nothing", Seen{}, Alive},
		{"just in time", Seen{Accepted: ago(9999 * time.Millisecond), Heard: ago(59 * time.Second), Frame: ago(9 * time.Second), Blocked: ago(9 * time.Second)}, Alive},
		{"no request", Seen{Accepted: ago(10 * time.Second), Heard: now}, JoinTimeout},
		{"a byte every 5 s (R2)", Seen{Heard: ago(time.Second), Frame: ago(10 * time.Second)}, FrameTimeout},
		{"does not read (R3)", Seen{Heard: now, Blocked: ago(10 * time.Second)}, WriteTimeout},
		{"silent", Seen{Heard: ago(time.Minute)}, IdleTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := limits.Judge(now, tt.seen); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
