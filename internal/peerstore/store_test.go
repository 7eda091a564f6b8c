package peerstore

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/durable"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

var (
	pool  = netip.MustParsePrefix("10.0.0.0/16")
	plain = netip.MustParsePrefix("10.0.128.0/17")
	now   = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	site  = netip.MustParsePrefix("192.168.7.0/24")

	promised = netip.MustParsePrefix("192.168.9.0/24")
)

func addrs(all ...string) (list []netip.Addr) {
	for _, a := range all {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

func key() identity.Public { return identity.NewKey().Public() }

func openDir(t *testing.T, path string) *durable.Dir {
	t.Helper()
	dir, err := durable.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(openDir(t, filepath.Dir(path)), Config{Pool: pool, Plain: plain})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newStore(t *testing.T) (*Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peers.json")
	return open(t, path), path
}

// same tells whether what is on disk is what the store says.
func same(t *testing.T, s *Store, path string) {
	t.Helper()
	if got, want := open(t, path).now.Load(), s.now.Load(); !reflect.DeepEqual(got.Peers, want.Peers) || !reflect.DeepEqual(got.Invitations, want.Invitations) {
		t.Errorf("on disk is\n%+v, want\n%+v", got, want)
	}
}

func TestPeers(t *testing.T) {
	s, path := newStore(t)
	cam, err := s.Add(Peer{Name: "cam1", Key: key(), Added: now})
	if err != nil || !slices.Equal(cam.Addrs, addrs("10.0.127.254")) {
		t.Fatalf("got %+v, %v; want the highest address that is not for plain clients", cam, err)
	}
	hub, err := s.Add(Peer{Name: "hub", Key: key(), Addrs: addrs("10.0.3.7", "10.0.3.8"), Routes: []netip.Prefix{site}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Peer{cam, hub} {
		if got, ok := s.Lookup(p.Key); !ok || !reflect.DeepEqual(got, p) {
			t.Errorf("got %+v, want %+v", got, p)
		}
	}
	if _, ok := s.Lookup(key()); ok {
		t.Error("a stranger is a peer")
	}
	if got, ok := s.Named("Hub"); !ok || got.Key != hub.Key {
		t.Errorf("by name: %+v", got)
	}
	if got, ok := s.At(hub.Addrs[1]); !ok || got.Key != hub.Key {
		t.Errorf("by address: %+v", got)
	}
	_, named := s.Named("hu")
	if _, at := s.At(netip.MustParseAddr("10.0.3.9")); named || at {
		t.Error("who is not there was found")
	}
	same(t, s, path)

	if _, err := s.Disable("cam1", true); err != nil {
		t.Fatal(err)
	}
	if p, ok := s.Lookup(cam.Key); !ok || !p.Disabled {
		t.Errorf("got %+v, want it disabled", p)
	}
	same(t, s, path)
	if _, err := s.Remove("cam1"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Lookup(cam.Key); ok {
		t.Error("a removed peer is still one")
	}
	_, named = s.Named("cam1")
	if _, at := s.At(cam.Addrs[0]); named || at {
		t.Error("a removed peer has its name or address still")
	}
	if _, err := s.Remove("cam1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed twice: got %v", err)
	}
	if _, err := s.Disable("cam1", true); !errors.Is(err, ErrUnknown) {
		t.Errorf("disabled after removal: got %v", err)
	}
	same(t, s, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestRefusals(t *testing.T) {
	s, path := newStore(t)
	taken, err := s.Add(Peer{Name: "hub", Key: key(), Addrs: addrs("10.0.3.7"), Routes: []netip.Prefix{site}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Invite(Invitation{Name: "guest", Addrs: addrs("10.0.3.9"), Routes: []netip.Prefix{promised}, Expires: now.Add(time.Hour)}, now); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	tests := []struct {
		name string
		p    Peer
		want error // nil: any
	}{
		{"name", Peer{Name: "hub", Key: key()}, ErrTaken},
		{"key", Peer{Name: "x", Key: taken.Key}, ErrTaken},
		{"no key", Peer{Name: "x"}, nil},
		{"address", Peer{Name: "x", Key: key(), Addrs: addrs("10.0.3.7")}, ErrTaken},
		{"address twice", Peer{Name: "x", Key: key(), Addrs: addrs("10.0.3.8", "10.0.3.8")}, ErrTaken},
		{"promised name", Peer{Name: "guest", Key: key(), Added: now}, ErrTaken},
		{"promised route", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{promised}, Added: now}, ErrTaken},
		{"promised address", Peer{Name: "x", Key: key(), Addrs: addrs("10.0.3.9")}, ErrTaken},
		{"route", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{site}}, ErrTaken},
		{"route into the pool", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, nil},
		{"route for everything", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}, nil},
		{"route of loopback", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, nil},
		{"route of multicast", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{netip.MustParsePrefix("224.0.0.0/8")}}, nil},
		{"route with host bits", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{netip.MustParsePrefix("192.168.8.1/24")}}, nil},
		{"IPv6 route", Peer{Name: "x", Key: key(), Routes: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}}, nil},
		{"outside", Peer{Name: "x", Key: key(), Addrs: addrs("10.1.0.7")}, ErrAddress},
		{"gateway", Peer{Name: "x", Key: key(), Addrs: addrs("10.0.0.1")}, ErrAddress},
		{"network", Peer{Name: "x", Key: key(), Addrs: addrs("10.0.0.0")}, ErrAddress},
		{"broadcast", Peer{Name: "x", Key: key(), Addrs: addrs("10.0.255.255")}, ErrAddress},
		{"plain clients'", Peer{Name: "x", Key: key(), Addrs: addrs("10.0.128.7")}, ErrAddress},
		{"no name", Peer{Key: key()}, nil},
		{"a name that is none", Peer{Name: "a b", Key: key()}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := s.Add(tt.p); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.p.Key == (identity.Public{}) || tt.name == "key" || strings.HasPrefix(tt.name, "promised") {
				return
			}
			if _, err := s.Invite(Invitation{Name: tt.p.Name, Addrs: tt.p.Addrs, Routes: tt.p.Routes, Expires: now.Add(time.Hour)}, now); err == nil {
				t.Error("one of that kind can be invited")
			}
		})
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("a refusal changed the file")
	}
}

func TestInvitation(t *testing.T) {
	s, path := newStore(t)
	invite := func(name string) proto.Secret {
		t.Helper()
		secret, err := s.Invite(Invitation{Name: name, Expires: now.Add(15 * time.Minute)}, now)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	redeem := func(secret proto.Secret, k identity.Public, after time.Duration) (Peer, error) {
		return s.Redeem(secret, k, now.Add(after))
	}
	refused := func(what string, secret proto.Secret, k identity.Public, after time.Duration) {
		t.Helper()
		if _, err := redeem(secret, k, after); !errors.Is(err, ErrInvitation) {
			t.Errorf("%s: got %v, want %v", what, err, ErrInvitation)
		}
		if _, ok := s.Lookup(k); ok {
			t.Errorf("%s: joined", what)
		}
	}
	old, secret, late := invite("cam1"), invite("cam1"), invite("late")
	refused("replaced by another", old, key(), 0)
	refused("guessed", proto.Secret{1}, key(), 0)
	refused("nothing", proto.Secret{}, key(), 0)
	if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, secret[:]) {
		t.Error("the secret is in the file")
	}

	k := key()
	p, err := redeem(secret, k, 14*time.Minute)
	if err != nil || p.Name != "cam1" || p.Key != k {
		t.Fatalf("got %+v, %v", p, err)
	}
	refused("used by another key", secret, key(), 14*time.Minute)
	if again, err := redeem(secret, k, 15*time.Minute); err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("the same key again: got %+v, %v", again, err)
	}
	if _, err := redeem(secret, k, 16*time.Minute); !errors.Is(err, ErrInvitation) {
		t.Errorf("the same key after its end: got %v", err)
	}
	refused("expired", late, key(), 16*time.Minute)
	same(t, s, path)

	if _, err := s.Remove("cam1"); err != nil {
		t.Fatal(err)
	}
	refused("removed meanwhile", secret, k, 0)
	withdrawn := invite("x")
	if p, err := s.Remove("x"); err != nil || p.Name != "" {
		t.Errorf("withdrawn: got %+v, %v", p, err)
	}
	refused("withdrawn", withdrawn, key(), 0)

	other := invite("cam2")
	if p, err := redeem(other, k, 0); err != nil || p.Name != "cam2" {
		t.Fatalf("got %+v, %v", p, err)
	}
	// What was promised is free again when the invitation has expired.
	if _, err := s.Invite(Invitation{Name: "soon", Addrs: addrs("10.0.3.20"), Expires: now.Add(time.Second)}, now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(Peer{Name: "after", Key: key(), Addrs: addrs("10.0.3.20"), Added: now.Add(2 * time.Second)}); err != nil {
		t.Error(err)
	}
	if _, err := s.Remove("after"); err != nil {
		t.Error(err)
	}
	third := invite("cam3")
	if _, err := redeem(third, k, 0); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "cam2") {
		t.Errorf("a device that is here already: got %v", err)
	}
	peers, open := s.List(now)
	if len(peers) != 1 || len(open) != 2 || open[0].Name != "cam3" || open[1].Name != "late" {
		t.Errorf("got %d peers and the invitations %+v", len(peers), open)
	}
}

// An invitation that names an address is redeemed with it; one that was used promises nothing any more, and
// opens for its key only as long as that is the peer of its name.
func TestPromises(t *testing.T) {
	s, _ := newStore(t)
	k := key()
	secret, err := s.Invite(Invitation{Name: "cam1", Addrs: addrs("10.0.3.7"), Routes: []netip.Prefix{site}, Expires: now.Add(time.Hour)}, now)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Redeem(secret, k, now)
	if err != nil || !slices.Equal(p.Addrs, addrs("10.0.3.7")) || !slices.Equal(p.Routes, []netip.Prefix{site}) {
		t.Fatalf("got %+v, %v", p, err)
	}
	if got, ok := s.Find("cam1"); !ok || got.Key != k {
		t.Errorf("got %+v, %v", got, ok)
	}
	if _, ok := s.Find("cam2"); ok {
		t.Error("somebody is found who is not there")
	}
	// As after a change of the file by hand.
	f := s.now.Load().file
	f.Peers = []Peer{{Name: "renamed", Key: k, Addrs: addrs("10.0.3.9"), Added: now}}
	s.set(f)
	if _, err := s.Redeem(secret, k, now); !errors.Is(err, ErrInvitation) {
		t.Errorf("a key of another name: got %v", err)
	}
	if _, err := s.Add(Peer{Name: "x", Key: key(), Addrs: addrs("10.0.3.7"), Added: now}); err != nil {
		t.Errorf("the address of a used invitation: %v", err)
	}
}

// What could not be written did not happen.
// exam: F3
func TestDiskFails(t *testing.T) {
	s, path := newStore(t)
	k := key()
	if _, err := s.Add(Peer{Name: "cam1", Key: k}); err != nil {
		t.Fatal(err)
	}
	secret, err := s.Invite(Invitation{Name: "cam2", Expires: now.Add(time.Hour)}, now)
	if err != nil {
		t.Fatal(err)
	}
	before := s.now.Load()
	if err := os.RemoveAll(filepath.Dir(path)); err != nil { // nothing can be written there any more
		t.Fatal(err)
	}
	if _, err := s.Add(Peer{Name: "cam3", Key: key()}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Add: got %v", err)
	}
	if _, err := s.Remove("cam1"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Remove: got %v", err)
	}
	if _, err := s.Redeem(secret, key(), now); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Redeem: got %v", err)
	}
	if _, err := s.Invite(Invitation{Name: "cam4", Expires: now.Add(time.Hour)}, now); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Invite: got %v", err)
	}
	if before != s.now.Load() {
		t.Error("something has changed")
	}
	if _, ok := s.Lookup(k); !ok {
		t.Error("the peer is gone")
	}
}

func TestPoolIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	s, err := Open(openDir(t, filepath.Dir(path)), Config{Pool: netip.MustParsePrefix("10.0.0.0/29"), Plain: netip.MustParsePrefix("10.0.0.4/30")})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range addrs("10.0.0.3", "10.0.0.2") {
		if p, err := s.Add(Peer{Name: "p" + want.String(), Key: key()}); err != nil || p.Addrs[0] != want {
			t.Errorf("got %v, %v; want %s", p.Addrs, err, want)
		}
	}
	if _, err := s.Add(Peer{Name: "x", Key: key()}); !errors.Is(err, ErrExhausted) {
		t.Errorf("got %v, want %v", err, ErrExhausted)
	}
}

// A file of a later version, with unknown fields or with contradictions is refused and left as it is.
// exam: U6
func TestOtherFiles(t *testing.T) {
	k := key().String()
	peer := func(name, addr string) string {
		return `{"name":"` + name + `","key":"` + k + `","addresses":["` + addr + `"],"added":"2030-01-02T03:04:05Z"}`
	}
	good := `{"version":1,"peers":[` + peer("a", "10.0.3.7") + `],"invitations":[]}`
	if _, err := parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"later version":       `{"version":2,"peers":"of another kind"}`,
		"no version":          `{"peers":[]}`,
		"unknown field":       strings.Replace(good, `"added"`, `"age":1,"added"`, 1),
		"no JSON":             good[:40],
		"empty":               "",
		"key twice":           `{"version":1,"peers":[` + peer("a", "10.0.3.7") + "," + peer("b", "10.0.3.8") + `],"invitations":[]}`,
		"no key":              strings.Replace(good, `"key":"`+k+`",`, "", 1),
		"no address":          strings.Replace(good, `"10.0.3.7"`, "", 1),
		"plain address":       strings.Replace(good, "10.0.3.7", "10.0.128.7", 1),
		"half of a key":       strings.Replace(good, k, k[:22], 1),
		"hash of 63 digits":   strings.Replace(good, `"invitations":[`, `"invitations":[{"hash":"`+strings.Repeat("0", 63)+`","name":"x","expires":"2030-01-02T03:04:05Z"}`, 1),
		"hash of 65 digits":   strings.Replace(good, `"invitations":[`, `"invitations":[{"hash":"`+strings.Repeat("0", 65)+`","name":"x","expires":"2030-01-02T03:04:05Z"}`, 1),
		"hash of no digits":   strings.Replace(good, `"invitations":[`, `"invitations":[{"hash":"`+strings.Repeat("x", 64)+`","name":"x","expires":"2030-01-02T03:04:05Z"}`, 1),
		"something behind it": good + good,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "peers.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(openDir(t, filepath.Dir(path)), Config{Pool: pool, Plain: plain})
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that names the file", err)
			}
			if name == "later version" && !errors.Is(err, ErrVersion) {
				t.Errorf("got %v, want %v", err, ErrVersion)
			}
			if b, _ := os.ReadFile(path); string(b) != text {
				t.Error("the file was changed")
			}
		})
	}
}

// exam: U6
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"peers":[{"name":"a","key":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","addresses":["10.0.3.7"],"added":"2030-01-02T03:04:05Z"}],"invitations":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parse(b)
		if err != nil {
			return
		}
		dir := openDir(t, t.TempDir())
		if err := writeFile(dir, file); err != nil {
			t.Fatal(err)
		}
		again, err := readFile(dir)
		if err != nil || !reflect.DeepEqual(again.Peers, file.Peers) {
			t.Errorf("%+v became %+v, %v", file, again, err)
		}
	})
}
