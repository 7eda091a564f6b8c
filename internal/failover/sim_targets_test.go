package failover

import (
	"testing"
	"time"
)

const sec = time.Second

// The targets of the project, each as a scenario: for how long the traffic stands still, and what is in use at the end.
func TestTargets(t *testing.T) {
	cut := func(l line) shape { return from(fine, 60*sec, l) }
	tests := []struct {
		name  string
		ways  []simWay
		until time.Duration
		limit time.Duration
		use   string
	}{
		{"first connection", []simWay{udp(always(fine)), tcp(always(fine))}, 5 * sec, 150 * time.Millisecond, "udp"},
		{"first connection, two preferred ways blackholed", []simWay{udp(always(hole)), quic(always(hole)), tcp(always(fine))}, 5 * sec, sec, "tcp"},
		{"first connection, all but dns blocked", []simWay{udp(always(hole)), quic(always(hole)), tcp(always(hole)), tls(always(hole)), ssh(always(hole)), icmp(always(hole)), dns(always(slow))}, 30 * sec, 5 * sec, "dns"},
		{"hard failure, standby", []simWay{udp(cut(dead)), tcp(always(fine))}, 70 * sec, 150 * time.Millisecond, "tcp"},
		{"hard failure, cold", []simWay{tcp(func(t time.Duration) line {
			if t >= 60*sec && t < 60*sec+20*time.Millisecond {
				return line{rtt: fine.rtt, reset: true}
			}
			return fine
		})}, 70 * sec, 500 * time.Millisecond, "tcp"},
		{"silent blackhole, standby", []simWay{udp(cut(hole)), tcp(always(fine))}, 70 * sec, sec, "tcp"},
		{"silent blackhole, cold, another way", []simWay{udp(cut(hole)), quic(always(fine))}, 70 * sec, 2 * sec, "quic"},
		{"silent blackhole, cold, a NAT forgets", []simWay{tcp(cut(line{rtt: fine.rtt, forgets: 60 * sec}))}, 70 * sec, 2 * sec, "tcp"},
		{"80 ms instead of 20: silent blackhole, standby", []simWay{udp(from(slow, 60*sec, hole)), tcp(always(slow))}, 70 * sec, sec, "tcp"},
		{"it answers, but nothing is acknowledged", []simWay{udp(cut(line{rtt: fine.rtt, idle: true})), tcp(always(fine))}, 70 * sec, 2 * sec, "tcp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(10) {
				s := newSim(t, Config{Seed: seed}, nil, tt.ways...).run(tt.until)
				s.wantUse(tt.use)
				s.wantGap(tt.limit)
			}
		})
	}
}
