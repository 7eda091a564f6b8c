package main

import (
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   series
		want float64
	}{
		{"one", series{3}, 3},
		{"odd, not sorted", series{9, 1, 5}, 5},
		{"even", series{4, 1, 2, 3}, 2.5},
	} {
		if got := tt.in.median(); got != tt.want {
			t.Errorf("%s: median is %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestRatioIsTakenWithinARun: the ratio of these medians would be 2.
func TestRatioIsTakenWithinARun(t *testing.T) {
	l := &line{got: [subjects]series{bare: {10, 20, 100}, ours: {40, 5, 50}}}
	if got, want := l.ratio(bare).String(), "0.500 (0.250..4.00)"; got != want {
		t.Errorf("ratio is %q, want %q", got, want)
	}
}

func TestBars(t *testing.T) {
	for _, tt := range []struct {
		name           string
		bar            bar
		bare, ours, wg series
		want           string
	}{
		{"just enough of bare", ofBare(0.6), series{10}, series{6}, nil, "yes"},
		{"not enough of bare", ofBare(0.6), series{10}, series{5.9}, nil, "NO"},
		{"enough of wireguard-go", timesWireguard(4), nil, series{8}, series{2}, "yes"},
		{"wireguard-go is not installed", timesWireguard(4), series{10}, series{8}, nil, "not measured"},
		{"at most, at the limit", atMost(2, ""), nil, series{2}, nil, "yes"},
		{"at most, above", atMost(2, ""), nil, series{2.1}, nil, "NO"},
		{"below, at the limit", below(2, ""), nil, series{2}, nil, "NO"},
		{"runs differ, median keeps", atMost(2, ""), nil, series{1, 3, 2}, nil, "yes (in 2 of 3)"},
		{"runs differ, median does not", atMost(2, ""), nil, series{1, 3, 4}, nil, "NO (in 1 of 3)"},
		{"nothing measured", atMost(2, ""), nil, nil, nil, "not measured"},
	} {
		l := &line{got: [subjects]series{tt.bare, tt.ours, tt.wg}}
		if got := tt.bar.verdict(l); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestParsePing(t *testing.T) {
	const out = "100 packets transmitted, 98 received, 2% packet loss, time 2003ms\n" +
		"rtt min/avg/max/mdev = 0.050/0.345/0.897/0.101 ms, pipe 2\n"
	got, err := parsePing(out)
	if err != nil || len(got) != 3 || got[0] != 0.345 || got[1] != 0.897 || got[2] != 2 {
		t.Errorf("%v, %v, want [0.345 0.897 2]", got, err)
	}
	if _, err := parsePing("100 packets transmitted, 0 received"); err == nil {
		t.Error("no answer at all is no error")
	}
}

func TestParseIperf(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     float64
		err      string
	}{
		{"received", `{"end":{"sum_sent":{"bits_per_second":9e9},"sum_received":{"bits_per_second":8.5e9},"sender_tcp_congestion":"cubic"}}`, 8.5, ""},
		{"other congestion control", `{"end":{"sum_received":{"bits_per_second":8e9},"sender_tcp_congestion":"bbr"}}`, 0, "bbr"},
		{"error", `{"end":{},"error":"unable to connect"}`, 0, "unable to connect"},
		{"nothing", `{"end":{"sum_received":{"bits_per_second":0}}}`, 0, "nothing"},
		{"no JSON", `iperf3: no`, 0, "parse"},
	} {
		got, err := parseIperf(tt.in)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, %v, want %v, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}
