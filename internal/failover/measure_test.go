package failover

import (
	"testing"
	"time"
)

// RFC 6298, section 2.2 and 2.3.
func TestMeter(t *testing.T) {
	const ms = time.Millisecond
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var e meter
	if e.late() != firstLate || e.least() != 0 || e.loss() != 0 {
		t.Errorf("got %s, %s, %f before anything was measured", e.late(), e.least(), e.loss())
	}
	tests := []struct{ rtt, smooth, vary, late, least time.Duration }{
		{80 * ms, 80 * ms, 40 * ms, 240 * ms, 80 * ms},
		{160 * ms, 90 * ms, 50 * ms, 290 * ms, 80 * ms},
		{10 * ms, 80 * ms, 57500 * time.Microsecond, 310 * ms, 10 * ms},
	}
	for i, tt := range tests {
		e.sent(uint64(i), 8, now)
		e.answered(uint64(i), now.Add(tt.rtt))
		if e.smooth != tt.smooth || e.vary != tt.vary || e.late() != tt.late || e.least() != tt.least {
			t.Errorf("%s: got %s, %s, %s, %s; want %v", tt.rtt, e.smooth, e.vary, e.late(), e.least(), tt)
		}
	}
	for range samples {
		e.add(20 * ms)
	}
	if e.least() != 20*ms {
		t.Errorf("got %s, though that was long ago", e.least())
	}
	if (&meter{smooth: ms, count: 1}).late() != leastLate {
		t.Error("on the fastest line an echo may take no time at all")
	}
}

// Echoes that nobody answers are lost, and not kept.
func TestMeterIsBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := meter{count: 1}
	for i := range uint64(1000) {
		e.sent(i, 8, now)
	}
	if n, loss := len(e.echoes), e.loss(); n != maxEchoes || loss != 1 {
		t.Errorf("%d echoes are kept, %f lost", n, loss)
	}
	e.expire(now.Add(lostAfter - 1))
	if len(e.echoes) != maxEchoes {
		t.Error("lost too early")
	}
	if e.expire(now.Add(lostAfter)); len(e.echoes) != 0 {
		t.Errorf("%d echoes are kept for ever", len(e.echoes))
	}
}

// How long is too long, by how long a round trip takes.
func TestThresholds(t *testing.T) {
	const ms = time.Millisecond
	var c Config
	c.setDefaults()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ rtt, silence, pace, stall, polling time.Duration }{
		{20 * ms, 250 * ms, 200 * ms, 1500 * ms, 6000 * ms},
		{60 * ms, 250 * ms, 200 * ms, 1500 * ms, 6000 * ms},
		{200 * ms, 800 * ms, 400 * ms, 1600 * ms, 6000 * ms},
		{time.Second, 4 * time.Second, 2 * time.Second, 8 * time.Second, 8 * time.Second},
	} {
		p := path{heard: at.Add(-time.Hour), meter: meter{smooth: tt.rtt, count: 1}}
		if got := p.silentAt(&c, time.Time{}); !got.IsZero() {
			t.Errorf("%s: silent at %s, though nothing is due", tt.rtt, got)
		}
		got := [...]time.Duration{p.silentAt(&c, at).Sub(at), p.pace(&c), p.stalledAt(&c, false, at).Sub(at), p.stalledAt(&c, true, at).Sub(at)}
		if got != [...]time.Duration{tt.silence, tt.pace, tt.stall, tt.polling} {
			t.Errorf("%s: got %v, want %v", tt.rtt, got, tt)
		}
		p.meter.sent(1, smallSize, at.Add(-time.Second))
		if got := p.silentAt(&c, at).Sub(at); got != tt.silence-time.Second {
			t.Errorf("%s: an echo that was sent before counts from %s", tt.rtt, got)
		}
		p.heard = at.Add(time.Second)
		if got := p.silentAt(&c, at).Sub(p.heard); got != tt.silence {
			t.Errorf("%s: silent %s after something was heard", tt.rtt, got)
		}
	}
}
