package peerstore

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/durable"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// Reasons to refuse a change.
var (
	ErrUnknown     = errors.New("no such peer")
	ErrTaken       = errors.New("taken")
	ErrAddress     = errors.New("not an address for a peer")
	ErrExhausted   = errors.New("no address left")
	ErrInvitation  = errors.New("the invitation is unknown, used or expired")
	ErrUnavailable = errors.New("peers can not be stored")
)

// maxInvitations may be open at a time.
const maxInvitations = 10_000

// Config says which addresses peers can have.
type Config struct {
	Pool  netip.Prefix // its first address is the gateway's
	Plain netip.Prefix // the part of the pool for clients without a key; invalid: none
}

// A Store is a set of peers and invitations. It is safe for concurrent use; Lookup and List never wait
// for the disk.
type Store struct {
	dir *durable.Dir
	c   Config

	mu  sync.Mutex // held by who changes something, until it is on disk
	now atomic.Pointer[state]
}

// state is what the file says. It is replaced, never changed.
type state struct {
	file
	// indices in Peers
	byKey  map[identity.Public]int
	byName map[string]int // small letters; of several that differ in the case of letters the first
	byAddr map[netip.Addr]int
}

// Open reads the file in a directory, which has to stay open as long as the store is used, if there is one.
func Open(dir *durable.Dir, c Config) (*Store, error) {
	f, err := readFile(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, c: c}
	taken := file{}
	for _, p := range f.Peers {
		if err := s.checkPeer(taken, p); err != nil {
			return nil, fmt.Errorf("peers: %s: %w", filePath(dir), err)
		}
		taken.Peers = append(taken.Peers, p)
	}
	s.set(f)
	return s, nil
}

// set makes f the state.
func (s *Store) set(f file) {
	now := &state{f, make(map[identity.Public]int, len(f.Peers)), make(map[string]int, len(f.Peers)), make(map[netip.Addr]int, len(f.Peers))}
	for i, p := range slices.Backward(f.Peers) {
		now.byKey[p.Key] = i
		now.byName[strings.ToLower(p.Name)] = i
		for _, a := range p.Addrs {
			now.byAddr[a] = i
		}
	}
	s.now.Store(now)
}

// commit brings f to disk and makes it the state.
func (s *Store) commit(f file) error {
	if err := writeFile(s.dir, f); err != nil {
		return err
	}
	s.set(f)
	return nil
}

// Lookup returns the peer with a key.
func (s *Store) Lookup(key identity.Public) (Peer, bool) {
	now := s.now.Load()
	i, ok := now.byKey[key]
	if !ok {
		return Peer{}, false
	}
	return now.Peers[i], true
}

// Named returns the peer of a name, whatever the case of its letters.
func (s *Store) Named(name string) (Peer, bool) {
	now := s.now.Load()
	i, ok := now.byName[strings.ToLower(name)]
	if !ok {
		return Peer{}, false
	}
	return now.Peers[i], true
}

// At returns the peer that has an address.
func (s *Store) At(a netip.Addr) (Peer, bool) {
	now := s.now.Load()
	i, ok := now.byAddr[a]
	if !ok {
		return Peer{}, false
	}
	return now.Peers[i], true
}

// List returns all peers, and the invitations that are open at a time, each sorted by name.
func (s *Store) List(now time.Time) ([]Peer, []Invitation) {
	f := s.now.Load()
	open := slices.DeleteFunc(slices.Clone(f.Invitations), func(i Invitation) bool {
		return now.After(i.Expires) || i.UsedBy != identity.Public{}
	})
	slices.SortFunc(open, func(a, b Invitation) int { return cmp.Compare(a.Name, b.Name) })
	peers := slices.Clone(f.Peers)
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return peers, open
}

// Find returns the peer of a name.
func (s *Store) Find(name string) (Peer, bool) {
	peers := s.now.Load().Peers
	if i := slices.IndexFunc(peers, func(p Peer) bool { return p.Name == name }); i >= 0 {
		return peers[i], true
	}
	return Peer{}, false
}

// Add makes p a peer from p.Added on; an address is chosen for it if it has none.
func (s *Store) Add(p Peer) (Peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.now.Load().file
	f.Invitations = stillOpen(f.Invitations, p.Added)
	if slices.ContainsFunc(f.Invitations, func(i Invitation) bool { return i.Name == p.Name && i.UsedBy == identity.Public{} }) {
		return p, fmt.Errorf("name %q is %w: it is promised to who was invited; 'vpnsrv peer rm' withdraws that", p.Name, ErrTaken)
	}
	f, p, err := s.add(f, p)
	if err != nil {
		return p, err
	}
	return p, s.commit(f)
}

func (s *Store) add(f file, p Peer) (file, Peer, error) {
	if len(p.Addrs) == 0 {
		a, err := s.choose(f)
		if err != nil {
			return f, p, err
		}
		p.Addrs = []netip.Addr{a}
	}
	if err := s.checkPeer(f, p); err != nil {
		return f, p, err
	}
	f.Peers = append(slices.Clip(slices.Clone(f.Peers)), p)
	return f, p, nil
}

// Remove takes a peer away, and the invitation of that name if one is open. The zero Peer is returned
// where there was only that.
func (s *Store) Remove(name string) (Peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.now.Load().file
	var p Peer
	if i := slices.IndexFunc(f.Peers, func(p Peer) bool { return p.Name == name }); i >= 0 {
		p = f.Peers[i]
		f.Peers = slices.Delete(slices.Clone(f.Peers), i, i+1)
	}
	n := len(f.Invitations)
	f.Invitations = slices.DeleteFunc(slices.Clone(f.Invitations), func(i Invitation) bool { return i.Name == name })
	if p.Name == "" && len(f.Invitations) == n {
		return p, fmt.Errorf("%q: %w", name, ErrUnknown)
	}
	return p, s.commit(f)
}

// Disable keeps a peer from joining, or allows it again. It returns what the peer was before.
func (s *Store) Disable(name string, disabled bool) (Peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.now.Load().file
	i := slices.IndexFunc(f.Peers, func(p Peer) bool { return p.Name == name })
	if i < 0 {
		return Peer{}, fmt.Errorf("%q: %w", name, ErrUnknown)
	}
	p := f.Peers[i]
	f.Peers = slices.Clone(f.Peers)
	f.Peers[i].Disabled = disabled
	return p, s.commit(f)
}

// Invite opens an invitation until i.Expires and returns its secret. An open one of the same name is
// closed by it.
func (s *Store) Invite(i Invitation, now time.Time) (proto.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.now.Load().file
	f.Invitations = slices.DeleteFunc(stillOpen(f.Invitations, now), func(o Invitation) bool { return o.Name == i.Name })
	if err := s.check(f, Peer{Name: i.Name, Addrs: i.Addrs, Routes: i.Routes}); err != nil {
		return proto.Secret{}, err
	}
	if len(f.Invitations) >= maxInvitations {
		return proto.Secret{}, fmt.Errorf("%d invitations are open: %w", maxInvitations, ErrTaken)
	}
	secret := identity.NewSecret()
	i.Hash, i.UsedBy = sha256.Sum256(secret[:]), identity.Public{}
	f.Invitations = append(f.Invitations, i)
	return secret, s.commit(f)
}

// stillOpen returns a copy of those that have not expired.
func stillOpen(all []Invitation, now time.Time) []Invitation {
	return slices.DeleteFunc(slices.Clone(all), func(i Invitation) bool { return now.After(i.Expires) })
}

// Redeem makes the device with a key the peer that the secret stands for.
func (s *Store) Redeem(secret proto.Secret, key identity.Public, now time.Time) (Peer, error) {
	// That hashes are compared as it comes says nothing about the secret of any.
	hash := Hash(sha256.Sum256(secret[:]))
	if opens(s.now.Load().file, hash, now) < 0 { // who guesses does not wait for the disk
		return Peer{}, ErrInvitation
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.now.Load().file
	at := opens(f, hash, now)
	if at < 0 {
		return Peer{}, ErrInvitation
	}
	i := f.Invitations[at]
	switch i.UsedBy {
	case key:
		if p, ok := s.Lookup(key); ok && p.Name == i.Name {
			return p, nil
		}
		return Peer{}, ErrInvitation // it was removed meanwhile
	case identity.Public{}:
	default:
		return Peer{}, ErrInvitation
	}
	f, p, err := s.add(f, Peer{Name: i.Name, Key: key, Addrs: i.Addrs, Routes: i.Routes, Added: now})
	if err != nil {
		return p, err
	}
	i.UsedBy = key
	f.Invitations = slices.Clone(f.Invitations)
	f.Invitations[at] = i
	return p, s.commit(f)
}

// opens returns the index of the invitation with a hash, or -1.
func opens(f file, hash Hash, now time.Time) int {
	return slices.IndexFunc(f.Invitations, func(i Invitation) bool { return i.Hash == hash && !now.After(i.Expires) })
}

func (s *Store) checkPeer(f file, p Peer) error {
	if p.Key == (identity.Public{}) || len(p.Addrs) == 0 {
		return fmt.Errorf("peer %q has no key or no address", p.Name)
	}
	return s.check(f, p)
}

// check tells whether p, or who is invited as p, may stand beside the peers of f.
func (s *Store) check(f file, p Peer) error {
	if _, err := identity.ParseName(p.Name); err != nil {
		return err
	}
	for i, a := range p.Addrs {
		if err := s.usable(a); err != nil {
			return err
		}
		if slices.Contains(p.Addrs[:i], a) {
			return fmt.Errorf("address %s is named twice: %w", a, ErrTaken)
		}
	}
	for _, r := range p.Routes {
		if err := s.routable(r); err != nil {
			return err
		}
	}
	for _, o := range f.Peers {
		switch {
		case o.Name == p.Name:
			return fmt.Errorf("name %q is %w: remove that peer first, or choose another name", p.Name, ErrTaken)
		case o.Key == p.Key:
			return fmt.Errorf("the key of %q is %w: it is that of %q", p.Name, ErrTaken, o.Name)
		}
		for _, a := range p.Addrs {
			if slices.Contains(o.Addrs, a) {
				return fmt.Errorf("address %s is %w: it is that of %q", a, ErrTaken, o.Name)
			}
		}
		for _, r := range p.Routes {
			if slices.Contains(o.Routes, r) {
				return fmt.Errorf("route %s is %w: it leads to %q", r, ErrTaken, o.Name)
			}
		}
	}
	return s.checkInvited(f, p)
}

// checkInvited keeps what was promised to others.
func (s *Store) checkInvited(f file, p Peer) error {
	for _, i := range f.Invitations {
		if i.Name == p.Name || i.UsedBy != (identity.Public{}) || p.Added.After(i.Expires) {
			continue
		}
		for _, a := range p.Addrs {
			if slices.Contains(i.Addrs, a) {
				return fmt.Errorf("address %s is %w: it is promised to %q", a, ErrTaken, i.Name)
			}
		}
		for _, r := range p.Routes {
			if slices.Contains(i.Routes, r) {
				return fmt.Errorf("route %s is %w: it is promised to %q", r, ErrTaken, i.Name)
			}
		}
	}
	return nil
}

// routable tells whether a network can be behind a peer.
func (s *Store) routable(r netip.Prefix) error {
	a := r.Addr()
	switch {
	case !a.Is4() || r != r.Masked() || r.Overlaps(s.c.Pool):
		return fmt.Errorf("route %s: an IPv4 network outside of the pool %s is needed", r, s.c.Pool)
	case r.Bits() < 8 || a.IsLoopback() || a.IsLinkLocalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 224:
		return fmt.Errorf("route %s: not a network that can be behind a device", r)
	}
	return nil
}

func (s *Store) usable(a netip.Addr) error {
	pool := s.c.Pool.Masked()
	switch {
	case !pool.Contains(a):
		return fmt.Errorf("%s: %w: it is not in the pool %s", a, ErrAddress, pool)
	case a == pool.Addr() || a == pool.Addr().Next() || !pool.Contains(a.Next()):
		return fmt.Errorf("%s: %w: it is the gateway's, or that of the network or of broadcasts", a, ErrAddress)
	case s.c.Plain.IsValid() && s.c.Plain.Contains(a):
		return fmt.Errorf("%s: %w: %s is for clients without a key", a, ErrAddress, s.c.Plain)
	}
	return nil
}

// choose returns the highest address that is nobody's, as 2013 did; none that ends in .0 or .255.
func (s *Store) choose(f file) (netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, p := range f.Peers {
		for _, a := range p.Addrs {
			used[a] = true
		}
	}
	for _, i := range f.Invitations {
		for _, a := range i.Addrs {
			used[a] = true
		}
	}
	base := s.c.Pool.Masked().Addr().As4()
	first := binary.BigEndian.Uint32(base[:])
	for off := uint32(1)<<(32-s.c.Pool.Bits()) - 2; off >= 2; off-- {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+off)
		a := netip.AddrFrom4(b)
		if b[3] != 0 && b[3] != 255 && !used[a] && s.usable(a) == nil {
			return a, nil
		}
	}
	return netip.Addr{}, ErrExhausted
}
