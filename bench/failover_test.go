package main

import (
	"slices"
	"testing"
	"time"
)

func TestFlowRates(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []float64
	}{
		{"[  5]   1.20-1.30   sec   559 KBytes  45812 Kbits/sec                  \n", []float64{45812}},
		{"[  5]   1.30-1.40   sec  0.00 Bytes  0.00 Kbits/sec                  \n", []float64{0}},
		{"[ ID] Interval           Transfer     Bitrate\n", nil},
		{"Accepted connection from 10.0.127.254, port 44562\n", nil},
	} {
		if got := ratesIn(tt.line); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, want %v", tt.line, got, tt.want)
		}
	}
}

func TestFlowGoesOn(t *testing.T) {
	steady := slices.Repeat([]float64{1}, 10)
	for _, tt := range []struct {
		name string
		all  []float64
		want time.Duration
		ok   bool
	}{
		{"never stopped", append([]float64{0, 0}, steady...), 0, true},
		{"stopped for three", slices.Concat([]float64{5, 5, 0, 0, 0}, steady), 3 * flowEvery, true},
		{"some came at first", slices.Concat([]float64{5, 5, 7, 0, 0}, steady), 3 * flowEvery, true},
		{"too few to say", append([]float64{5, 5}, steady[1:]...), 0, false},
		{"stands still", slices.Concat([]float64{5, 5}, steady, []float64{0}), 0, false},
	} {
		if got, ok := goesOn(tt.all, 2); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %s, %t, want %s, %t", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestPinger(t *testing.T) {
	began := time.Now().Add(-time.Minute)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	p := &pinger{}
	for i := range 10 {
		p.sent = append(p.sent, at(50*i))
		p.answered = append(p.answered, time.Time{})
	}
	for _, i := range []int{0, 1, 2, 8, 6, 9, 2} { // 2 comes twice, 8 before 6
		p.answer(i, at(50*i+20))
	}
	p.answer(99, at(0)) // somebody else's
	if n := p.lost(); n != 4 {
		t.Errorf("%d are lost, want 4", n)
	}
	if got := p.longest(at(0)); got != 300*time.Millisecond {
		t.Errorf("the longest pause is %s, want 300ms", got)
	}
	if got := p.firstSince(at(160)); got != at(320) {
		t.Errorf("the first answer after a failure came at %s, want 320ms", got.Sub(began))
	}
	if got := p.firstSince(at(470)); !got.IsZero() {
		t.Errorf("an answer at %s to nothing", got.Sub(began))
	}
}

// TestLayout: each line has as many cells as there are columns.
func TestLayout(t *testing.T) {
	for _, y := range []layout{measurements, interruptions} {
		if got, want := len(y.cells(&line{})), len(y.columns()); got != want {
			t.Errorf("%s: %d cells, %d columns", y.title, got, want)
		}
	}
}
