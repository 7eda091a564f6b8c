package netstack

import (
	"net/netip"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

type entry struct {
	place int
	when  int64
	owner netip.Addr
}

func (e *entry) seat() *int  { return &e.place }
func (e *entry) used() int64 { return e.when }

// Shares are what counting says, whatever comes and goes; who gives way is one of who has most, and his oldest where he has few.
func TestSharesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newShares[*entry]()
		var all []*entry
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				n := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				s.sub(all[n].owner, all[n])
				all = append(all[:n], all[n+1:]...)
			} else {
				e := &entry{when: int64(rapid.IntRange(0, 9).Draw(t, "when"))*1000 + int64(i), owner: netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 5).Draw(t, "client"))})}
				s.add(e.owner, e)
				all = append(all, e)
			}
			counts, most := map[netip.Addr]int{}, 0
			for _, e := range all {
				counts[e.owner]++
				most = max(most, counts[e.owner])
			}
			if s.n != len(all) || len(s.of) != len(counts) {
				t.Fatalf("%d entries of %d clients, want %d of %d", s.n, len(s.of), len(all), len(counts))
			}
			if len(all) == 0 {
				continue
			}
			old := s.oldest()
			if counts[old.owner] != most {
				t.Fatalf("one of who has %d gives way, where another has %d", counts[old.owner], most)
			}
			for _, e := range all {
				if most <= sample && e.owner == old.owner && e.when < old.when {
					t.Fatal("another one is older")
				}
			}
		}
		for _, e := range all {
			s.sub(e.owner, e)
		}
		if s.n != 0 || len(s.of) != 0 || len(s.byCount) != 0 || s.top != 0 {
			t.Fatalf("left: %+v", s)
		}
	})
}

// To find who gives way takes as long with many flows as with few.
func BenchmarkEviction(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := newShares[*entry]()
			for i := range n {
				owner := netip.AddrFrom4([4]byte{10, 0, byte(i / 200), byte(i % 200 / 50)})
				s.add(owner, &entry{when: int64(i), owner: owner})
			}
			b.ReportAllocs()
			for b.Loop() {
				e := s.oldest()
				s.sub(e.owner, e)
				s.add(e.owner, e)
			}
		})
	}
}
