package wire

import (
	"strings"
	"testing"
	"time"
)

func TestFaultsAsText(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []string
		want string
	}{
		{"nothing", nil, ""},
		{"all of it", []string{"mtu 600", "queue 64kb", "rate 50mbit", "corrupt 0.1%", "reorder 2%", "duplicate 3%", "loss 1%", "jitter 5ms", "delay 25ms", "drop udp"},
			"delay 25ms, jitter 5ms, loss 1%, duplicate 3%, reorder 2%, corrupt 0.1%, rate 50mbit, queue 64kb, mtu 600, drop udp"},
		{"the last one counts", []string{"delay 1s", "delay 2ms"}, "delay 2ms"},
		{"taken back", []string{"loss 1%", "loss 0%", "rate 1mbit", "rate 0"}, ""},
		{"pass leaves the rest", []string{"delay 1s", "drop all", "pass"}, "delay 1s"},
		{"clear leaves nothing", []string{"delay 1s", "drop all", "clear"}, ""},
		{"drop replaces", []string{"drop udp", "drop tcp icmp"}, "drop tcp icmp"},
		{"kinds that make a larger one", []string{"drop tcp udp icmp otherip"}, "drop ip"},
		{"fractions", []string{"rate 1.5mbit", "loss 0.0001%", "queue 1.5kb"}, "loss 0.0001%, rate 1500kbit, queue 1536"},
	} {
		var f Faults
		for _, command := range tt.in {
			if err := f.Set(command); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if got := f.String(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWrongCommandsChangeNothing(t *testing.T) {
	for _, command := range []string{
		"", "delay", "delay 5", "delay -1ms", "delay 2m", "delay 1ms 2ms", "loss 1", "loss 101%", "loss -1%", "loss NaN%", "rate x", "rate -1mbit",
		"rate 200gbit", "rate NaNmbit", "queue 5gb", "mtu 1.5.2", "drop", "drop nothing", "drop udp nothing", "pass udp", "clear all", "explode 1",
	} {
		f := Faults{Delay: time.Second, Drop: UDP}
		was := f
		if err := f.Set(command); err == nil || f != was {
			t.Errorf("%q: %v, %+v", command, err, f)
		}
	}
}

// FuzzFaults: what is understood is written so that it is understood again as the same.
func FuzzFaults(f *testing.F) {
	f.Add("delay 25ms,loss 1%,drop udp arp")
	f.Add(Faults{Delay: 1, Jitter: maxTime, Loss: 1, Duplicate: whole, Reorder: 2, Corrupt: 3, Rate: 12345, Queue: 1 << 20, MTU: 600, Drop: All &^ ARP}.String())
	f.Fuzz(func(t *testing.T, text string) {
		var one, two Faults
		for command := range strings.SplitSeq(text, ",") {
			if one.Set(command) != nil {
				return
			}
		}
		if one == (Faults{}) {
			return
		}
		for command := range strings.SplitSeq(one.String(), ", ") {
			if err := two.Set(command); err != nil {
				t.Fatalf("%q: %v", one.String(), err)
			}
		}
		if one != two {
			t.Fatalf("%q: %+v, read again %+v", text, one, two)
		}
	})
}
