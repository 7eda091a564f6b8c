package failover

import (
	"testing"
	"time"
)

// A carrier that says what its way takes is believed: no echo is larger, and none is lost for that.
func TestCarrierSaysWhatPasses(t *testing.T) {
	now := time.Unix(0, 0)
	m := New(Config{Ways: []Way{{Name: "quic", Class: ClassDatagram, Datagram: true}}}, nil, now)
	largest := func() (n int) {
		actions, _ := m.Next(now)
		for _, a := range actions {
			switch a.Kind {
			case Echo:
				n = max(n, a.Size)
				m.Echo(7, a.Token, now)
			case SetMTU:
				t.Errorf("the shell is told %d", a.Size)
			}
		}
		return n
	}
	largest()
	m.Dialed(0, 7, true, now)
	m.Carries(7, 1200)
	if n := largest(); n != 1200 {
		t.Errorf("an echo of %d bytes where 1200 pass", n)
	}
	for _, tt := range []struct{ max, want int }{{1387, 1387}, {1387, 1387}, {0, 1387}, {5000, DefaultFull}, {1000, 1000}} {
		m.Carries(7, tt.max)
		if n := m.find(7).size; n.now != tt.want || n.full != tt.want {
			t.Errorf("%d pass: %+v", tt.max, n)
		}
	}
	p := m.find(7)
	p.told = 900 // the shell is still to hear that all passes again
	m.Carries(7, 1000)
	if p.told != 900 {
		t.Error("what the shell knows of is forgotten")
	}
	p.told = 1000
	p.meter.sent(99, 1000, now)
	if m.Carries(7, 1200); p.size.now != 1000 {
		t.Error("an echo that is under way does not count any more")
	}
	p.size.now = 940 // found with echoes
	m.Carries(7, 1200)
	if n := m.find(7).size; n.now != 940 || n.full != 1200 {
		t.Errorf("what echoes have found is forgotten: %+v", n)
	}
	m.Carries(8, 1200) // of a path that is gone
}
