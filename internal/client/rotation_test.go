package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"ferry/internal/identity"
	"ferry/internal/session"
)

// What a device trusts follows from what the gateway has shown and pushed, and only once it is stored.
func TestLearn(t *testing.T) {
	a, b, c := identity.Pin{1}, identity.Pin{2}, identity.Pin{3}
	var none identity.Pin
	for name, tt := range map[string]struct {
		gateway, next, shown, pushed identity.Pin
		want                         [2]identity.Pin
		stored                       bool
	}{
		"nothing new":         {a, none, a, none, [2]identity.Pin{a, none}, false},
		"a next one":          {a, none, a, b, [2]identity.Pin{a, b}, true},
		"the same next one":   {a, b, a, b, [2]identity.Pin{a, b}, false},
		"another next one":    {a, b, a, c, [2]identity.Pin{a, c}, true},
		"none any more":       {a, b, a, none, [2]identity.Pin{a, none}, true},
		"the next one, shown": {a, b, b, none, [2]identity.Pin{b, none}, true},
		"and one after that":  {a, b, b, c, [2]identity.Pin{b, c}, true},
		"itself":              {a, none, a, a, [2]identity.Pin{a, none}, false},
	} {
		for _, broken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", name, broken), func(t *testing.T) {
				var stored [][2]identity.Pin
				cl, _ := answering(t, Config{Key: identity.NewKey(), Gateway: tt.gateway, Next: tt.next, Learn: func(g, n identity.Pin) error {
					stored = append(stored, [2]identity.Pin{g, n})
					if broken {
						return errors.New("disk full")
					}
					return nil
				}})
				cl.trust(tt.gateway, tt.next)
				cl.pins.shown = tt.shown
				cl.learn(session.Lease{Extended: true, NextKey: tt.pushed})
				want := tt.want
				if broken {
					want = [2]identity.Pin{tt.gateway, tt.next}
				}
				if got := [2]identity.Pin{cl.pins.gateway, cl.pins.next}; got != want {
					t.Errorf("%s, broken %v: trusts %v, want %v", name, broken, got, want)
				}
				if tt.stored != (len(stored) == 1) || tt.stored && !slices.Contains(stored, tt.want) {
					t.Errorf("%s: stored %v, want %v once: %v", name, stored, tt.want, tt.stored)
				}
			})
		}
	}
}

// Where the owner has named the gateway's key himself, nobody else changes that.
func TestLearnNothing(t *testing.T) {
	cl, _ := answering(t, Config{Key: identity.NewKey(), Gateway: identity.Pin{1}})
	cl.trust(identity.Pin{1}, identity.Pin{})
	cl.pins.shown = identity.Pin{1}
	cl.learn(session.Lease{Extended: true, NextKey: identity.Pin{2}})
	if cl.pins.next != (identity.Pin{}) {
		t.Errorf("trusts %v", cl.pins)
	}
}
