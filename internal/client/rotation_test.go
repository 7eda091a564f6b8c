package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"ferry/internal/durable"
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
				disk := &disk{broken: broken}
				path := filepath.Join(t.TempDir(), "gateway.json")
				b, err := Enrolment{Version: enrolmentVersion, Name: "cam1", Servers: []string{"gw"}, Gateway: tt.gateway, Next: tt.next}.encode()
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				cl, _ := answering(t, Config{Key: identity.NewKey(), Gateway: tt.gateway, Next: tt.next, Joined: path})
				cl.host = disk
				cl.pins = pins{tt.gateway, tt.next}
				cl.learn(session.Lease{Extended: true, NextKey: tt.pushed}, tt.shown)
				want := tt.want
				if broken {
					want = [2]identity.Pin{tt.gateway, tt.next}
				}
				if got := [2]identity.Pin{cl.pins.gateway, cl.pins.next}; got != want {
					t.Errorf("%s, broken %v: trusts %v, want %v", name, broken, got, want)
				}
				if wrote := disk.writes == 1; wrote != tt.stored {
					t.Errorf("%s: written %v, want %v", name, wrote, tt.stored)
				}
				e, err := LoadEnrolment(filepath.Dir(path))
				if got := [2]identity.Pin{e.Gateway, e.Next}; err != nil || got != want || e.Name != "cam1" {
					t.Errorf("%s, broken %v: stored %+v, %v, want %v", name, broken, e, err, want)
				}
			})
		}
	}
}

// A disk writes down what a client has learned, unless it is broken.
type disk struct {
	broken bool
	writes int
}

func (d *disk) Open(path string) (*os.File, error) { return os.Open(path) }

func (d *disk) Replace(path string, b []byte) error {
	d.writes++
	if d.broken {
		return errors.New("disk full")
	}
	return durable.Replace(path, b)
}

// A device that was told another gateway meanwhile keeps that one.
func TestLearnOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.json")
	b, err := Enrolment{Version: enrolmentVersion, Name: "cam1", Servers: []string{"gw"}, Gateway: identity.Pin{9}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := learn(&disk{}, path, identity.Pin{1}, identity.Pin{2}); err == nil {
		t.Error("the other gateway is forgotten")
	}
	if e, err := LoadEnrolment(filepath.Dir(path)); err != nil || e.Gateway != (identity.Pin{9}) {
		t.Errorf("got %+v, %v", e, err)
	}
}

// Where the owner has named the gateway's key himself, nobody else changes that.
func TestLearnNothing(t *testing.T) {
	cl, _ := answering(t, Config{Key: identity.NewKey(), Gateway: identity.Pin{1}})
	cl.pins = pins{gateway: identity.Pin{1}}
	cl.learn(session.Lease{Extended: true, NextKey: identity.Pin{2}}, identity.Pin{1})
	if cl.pins.next != (identity.Pin{}) {
		t.Errorf("trusts %v", cl.pins)
	}
}
