package failover

import (
	"slices"
	"time"
)

// maxMemory is how many networks are remembered: more than a traveller sees in a day.
const maxMemory = 64

// A Memory is what worked by network, the newest first. The shell keeps it as JSON.
type Memory []Winner

// A Winner is the way that was used last on a network, by its name: the list of ways may be another one next time.
type Winner struct {
	Network string    `json:"network"`
	Way     string    `json:"way"`
	At      time.Time `json:"at"`
}

// fresh returns what of m is younger than age: at most maxMemory, one for each network. What a wrong clock has dated
// into the future is not kept for ever.
func (m Memory) fresh(now time.Time, age time.Duration) (out Memory) {
	for _, w := range m {
		young := now.Sub(w.At) < age && !w.At.After(now)
		if young && len(out) < maxMemory && out.winner(w.Network) == "" {
			out = append(out, w)
		}
	}
	return out
}

// winner returns the name of the way that worked on a network; empty: none is known.
func (m Memory) winner(network string) string {
	if i := slices.IndexFunc(m, func(w Winner) bool { return w.Network == network }); i >= 0 {
		return m[i].Way
	}
	return ""
}

// with returns m with w as the newest, in place of what was known of its network.
func (m Memory) with(w Winner) Memory {
	m = slices.DeleteFunc(slices.Clone(m), func(o Winner) bool { return o.Network == w.Network })
	return append(Memory{w}, m[:min(len(m), maxMemory-1)]...)
}
