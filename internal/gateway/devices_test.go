package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/admission"
	"ferry/internal/api"
	"ferry/internal/carrier"
	"ferry/internal/gateway/settings"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
	"ferry/internal/proto"
	"ferry/internal/session"
)

// withKey runs a gateway that has a key.
func withKey(t *testing.T, f func(l *lab) error) {
	t.Helper()
	if err := inMemory(t, Config{Key: identity.NewKey()}, f); err != nil {
		t.Error(err)
	}
}

// add makes a key a device of the gateway.
func (l *lab) add(name string, addrs ...string) (identity.Key, error) {
	k := identity.NewKey()
	p := peerstore.Peer{Name: name, Key: k.Public()}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	_, err := l.g.devices.Add(p)
	return k, err
}

// join connects a device, and asks for an address.
func (l *lab) join(k identity.Key, static string) *raw {
	r := l.dialTLS(identity.Tunnel, k)
	r.send(request(static, proto.FeatureGoodbye))
	l.settle()
	return r
}

func extendedReply(static, addr string) []byte {
	r := proto.Reply{Addr: netip.MustParseAddr(addr), Extended: true, Features: proto.FeatureGoodbye}
	return proto.AppendReply(nil, request(static, proto.FeatureGoodbye), r)
}

// bye returns the reason of the goodbye with which a connection has ended.
func (r *raw) bye() (proto.Reason, error) {
	b, eof := r.take()
	if !eof {
		return 0, fmt.Errorf("still connected; got %x", b)
	}
	if len(b) == 0 {
		return 0, nil
	}
	g, err := proto.ParseGoodbye(b)
	return g.Reason, err
}

func TestDevices(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1")
		if err != nil {
			return err
		}
		hub, err := l.add("hub", "10.0.3.7", "10.0.3.8")
		if err != nil {
			return err
		}
		a, b := l.join(cam, ""), l.join(hub, "10.0.3.8")
		c := l.join(hub, "")
		err = errors.Join(
			a.want("the address that was chosen", extendedReply("", "10.0.127.254"), false),
			b.want("one of two, asked for", extendedReply("10.0.3.8", "10.0.3.8"), false),
			c.want("the other one", extendedReply("", "10.0.3.7"), false))
		packet := ipPacket("10.0.127.254", "10.0.3.8")
		a.send(packet)
		l.settle()
		err = errors.Join(err, b.want("packet", packet, false))

		d := l.join(hub, "")
		reason, byeErr := b.bye()
		if reason != proto.ReasonReplaced {
			err = errors.Join(err, fmt.Errorf("the oldest connection: reason %s, %v; want it replaced", reason, byeErr))
		}
		return errors.Join(err, d.want("the third of two", extendedReply("", "10.0.3.8"), false), c.want("the second", nil, false))
	})
}

// Nobody gets in, or gets what is another's.
// exam: A1, P4, C6
func TestStrangers(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1", "10.0.3.7")
		if err != nil {
			return err
		}
		off, err := l.add("off", "10.0.3.9")
		if err != nil {
			return err
		}
		if _, err := l.g.devices.Disable("off", true); err != nil {
			return err
		}
		victim := l.join(cam, "")
		err = victim.want("victim", extendedReply("", "10.0.3.7"), false)
		for name, r := range map[string]*raw{"unknown key": l.join(identity.NewKey(), ""), "disabled key": l.join(off, "")} {
			if b, eof := r.take(); !eof || len(b) > 0 {
				err = errors.Join(err, fmt.Errorf("%s: disconnected %v, %d bytes; want the end and no bytes", name, eof, len(b)))
			}
		}
		other, addErr := l.add("other", "10.0.3.8")
		err = errors.Join(err, addErr)
		thief := l.join(other, "10.0.3.7")
		if reason, byeErr := thief.bye(); reason != proto.ReasonRefused {
			err = errors.Join(err, fmt.Errorf("another's address: reason %s, %v; want it refused", reason, byeErr))
		}
		plain := l.dial()
		plain.send(request("10.0.3.7", 0))
		l.settle()
		err = errors.Join(err, plain.want("another's address without a key", nil, true))
		guest := l.dial()
		guest.send(request("", 0))
		l.settle()
		err = errors.Join(err, guest.want("a guest", reply(request("", 0), "10.0.254.254"), false))
		guest.send(ipPacket("10.0.254.254", "10.0.3.7"))
		guest.send(ipPacket("10.0.3.7", "10.0.0.1"))
		l.settle()
		return errors.Join(err, victim.want("from a guest", nil, false))
	})
}

// What is spoken where, and by whom. The first of each is let in.
// exam: C6
func TestListeners(t *testing.T) {
	nobody := func(net.Conn) error { return errFrom }
	anybody := func(net.Conn) error { return nil }
	for name, tt := range map[string]struct {
		on         listener
		plain, tls bool
		cause      string
	}{
		"plain":        {listener{allow: carrier.Plain}, true, false, "not_ip"},
		"TLS":          {listener{allow: carrier.TLS}, false, true, "plain_refused"},
		"both":         {listener{allow: carrier.Plain | carrier.TLS}, true, true, ""},
		"for nobody":   {listener{allow: carrier.Plain | carrier.TLS, admit: nobody}, false, false, "from_refused"},
		"for somebody": {listener{allow: carrier.TLS, admit: anybody}, false, true, "plain_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := inMemoryOn(t, Config{Key: identity.NewKey()}, tt.on, func(l *lab) error {
				cam, err := l.add("cam1")
				if err != nil {
					return err
				}
				plain := l.dial()
				plain.send(request("", 0))
				l.settle()
				secure := l.join(cam, "")
				a, _ := plain.take()
				b, _ := secure.take()
				if (len(a) > 0) != tt.plain || (len(b) > 0) != tt.tls {
					err = fmt.Errorf("plain got %d bytes, want some: %v; TLS got %d, want some: %v", len(a), tt.plain, len(b), tt.tls)
				}
				if tt.cause != "" && l.g.closed.counts()[tt.cause] == 0 {
					err = errors.Join(err, fmt.Errorf("ended %v, want %s", l.g.closed.counts(), tt.cause))
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// A key that was proven counts at once, a client without one only with its address; and guesses cost their
// source time, while mistakes do not.
// exam: A2
func TestProofs(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1")
		if err != nil {
			return err
		}
		unknown := func(what string, want int) {
			l.settle()
			if n := l.g.gate.Stats().Unknown; n != want {
				err = errors.Join(err, fmt.Errorf("%s: %d have proven nothing, want %d", what, n, want))
			}
		}
		plain := l.dial()
		unknown("a connection", 1)
		l.dialTLS(identity.Tunnel, cam).send(nil)
		unknown("a device beside it", 1)
		plain.send(request("", 0))
		unknown("with an address", 0)
		return err
	})
	penalised := func(l *lab, again func()) bool {
		for range 2 * admission.FreeFailures {
			again()
			time.Sleep(200 * time.Millisecond)
		}
		l.settle()
		return l.g.closed.counts()[string(admission.Penalised)] > 0
	}
	withKey(t, func(l *lab) error {
		if penalised(l, func() { l.dial().send([]byte("\x16 what is this?")) }) {
			return fmt.Errorf("mistakes are penalised: %v", l.g.closed.counts())
		}
		return nil
	})
	withKey(t, func(l *lab) error {
		if !penalised(l, func() { l.dialTLS(identity.Tunnel, identity.NewKey()).send(nil) }) {
			return fmt.Errorf("keys that nobody knows are not: %v", l.g.closed.counts())
		}
		return nil
	})
	withKey(t, func(l *lab) error {
		if !penalised(l, func() {
			l.dialTLS(identity.Join, identity.NewKey()).send(proto.AppendJoin(nil, proto.Secret{1}))
		}) {
			return fmt.Errorf("secrets that open nothing are not: %v", l.g.closed.counts())
		}
		return nil
	})
}

// Who was removed is gone at once, and does not come back; a connection that had shaken hands
// before that gets nothing either.
// exam: U7
func TestRevoked(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1")
		if err != nil {
			return err
		}
		a := l.join(cam, "")
		early := l.dialTLS(identity.Tunnel, cam)
		early.send(nil)
		l.settle()
		a.take()
		if _, err := l.g.devices.Remove("cam1"); err != nil {
			return err
		}
		early.send(request("", proto.FeatureGoodbye))
		l.settle()
		if reason, byeErr := early.bye(); reason != proto.ReasonRevoked {
			err = errors.Join(err, fmt.Errorf("asked after the removal: reason %s, %v", reason, byeErr))
		}
		l.g.revoke(cam.Public())
		l.settle()
		if reason, byeErr := a.bye(); reason != proto.ReasonRevoked {
			err = errors.Join(err, fmt.Errorf("live: reason %s, %v", reason, byeErr))
		}
		return errors.Join(err, l.join(cam, "").want("again", nil, true))
	})
}

func TestEnrol(t *testing.T) {
	withKey(t, func(l *lab) error {
		site := netip.MustParsePrefix("192.168.7.0/24")
		secret, err := l.g.devices.Invite(peerstore.Invitation{
			Name: "cam1", Routes: []netip.Prefix{site}, Expires: time.Now().Add(time.Minute),
		}, time.Now())
		if err != nil {
			return err
		}
		ask := func(k identity.Key, b []byte) *raw {
			r := l.dialTLS(identity.Join, k)
			r.send(b)
			l.settle()
			return r
		}
		k := identity.NewKey()
		joined := proto.AppendJoined(nil, proto.JoinedMessage{Name: "cam1", Addr: netip.MustParseAddr("10.0.127.254")})
		err = errors.Join(
			ask(k, request("", 0)).want("a request in the place of a secret", nil, true),
			ask(k, proto.AppendJoin(nil, secret)).want("joined", joined, true),
			ask(k, proto.AppendJoin(nil, secret)).want("joined again", joined, true))
		for name, s := range map[string]proto.Secret{"used": secret, "guessed": {1}} {
			if reason, byeErr := ask(identity.NewKey(), proto.AppendJoin(nil, s)).bye(); reason != proto.ReasonInvitation {
				err = errors.Join(err, fmt.Errorf("%s: reason %s, %v", name, reason, byeErr))
			}
		}
		other, inviteErr := l.g.devices.Invite(peerstore.Invitation{Name: "cam2", Expires: time.Now().Add(time.Minute)}, time.Now())
		b, eof := ask(k, proto.AppendJoin(nil, other)).take()
		if g, byeErr := proto.ParseGoodbye(b); inviteErr != nil || byeErr != nil || !eof || !strings.Contains(g.Text, "cam1") {
			err = errors.Join(err, inviteErr, fmt.Errorf("a device that is here already was told %q, %v", g.Text, byeErr))
		}
		silent := l.dialTLS(identity.Join, identity.NewKey())
		silent.send(nil)
		time.Sleep(11 * time.Second)
		l.settle()
		if _, eof := silent.take(); !eof {
			err = errors.Join(err, errors.New("a device that shows no secret is waited for"))
		}
		a := l.join(k, "")
		b, _ = a.take()
		if !bytes.Equal(b, extendedReply("", "10.0.127.254")) {
			err = errors.Join(err, fmt.Errorf("after joining: got %x", b))
		}
		a.send(ipPacket("192.168.7.9", "10.0.0.1"))
		l.settle()
		if n := l.g.total.Stats(); n.Packets != 1 {
			err = errors.Join(err, fmt.Errorf("a packet from its site: %+v", n))
		}
		return err
	})
}

func TestUpperHalf(t *testing.T) {
	for pool, want := range map[string]string{
		"10.0.0.0/16": "10.0.128.0/17", "10.9.0.0/24": "10.9.0.128/25", "172.16.4.0/22": "172.16.6.0/23", "10.0.0.0/29": "10.0.0.4/30",
	} {
		if got := settings.UpperHalf(netip.MustParsePrefix(pool)); got.String() != want {
			t.Errorf("%s: got %s, want %s", pool, got, want)
		}
	}
}

// peersOf returns the connections of a device.
func (l *lab) peersOf(key identity.Key) (all []*peer) {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	for _, p := range l.g.peers {
		if p.key == key.Public() {
			all = append(all, p)
		}
	}
	return all
}

// The older of two connections of a device may be late in every way: it takes nothing back.
func TestLateConnection(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1", "10.0.3.7")
		if err != nil {
			return err
		}
		a := l.dialTLS(identity.Tunnel, cam)
		a.send(nil)
		l.settle()
		old := l.peersOf(cam)[0]
		lease, _, err := l.g.claim(old, session.Ask{})
		if err != nil {
			return err
		}
		old.lease = lease
		b := l.join(cam, "") // claims, displaces a, binds
		err = b.want("second connection", extendedReply("", "10.0.3.7"), false)
		old.bind(lease.Addr)       // the rest of what a began
		l.g.table.Unbind(old.port) // and it ends
		if _, displaced, claimErr := l.g.claim(old, session.Ask{}); claimErr == nil || displaced != nil {
			err = errors.Join(err, fmt.Errorf("a request that was in its buffer: %v, displaces %v", claimErr, displaced))
		}
		other, addErr := l.add("other", "10.0.3.8")
		o := l.join(other, "")
		packet := ipPacket("10.0.3.8", "10.0.3.7")
		o.send(packet)
		l.settle()
		err = errors.Join(err, addErr, b.want("packet for the connected device", packet, false))
		l.g.mu.Lock()
		l.g.disown(old, old.lease.Addr)
		l.g.mu.Unlock()
		l.join(cam, "")
		if reason, byeErr := b.bye(); reason != proto.ReasonReplaced {
			err = errors.Join(err, fmt.Errorf("a third connection: the second was told %s, %v; want it replaced", reason, byeErr))
		}
		return err
	})
}

// A client that assigns itself an address is one without a key like the others.
func TestSelfAssignedIsCounted(t *testing.T) {
	c := Config{LegacySelfAssign: true, Limits: admission.Limits{Plain: 1}, Key: identity.NewKey()}
	if err := inMemory(t, c, func(l *lab) error {
		for i := range 5 {
			l.dial().send(ipPacket(fmt.Sprintf("10.0.200.%d", i+1), "10.0.0.1"))
		}
		l.settle()
		if live, in := l.g.leases.pool.Stats().Live, l.g.gate.Stats(); live != 1 || in.Plain != 1 {
			return fmt.Errorf("limit of 1 client without a key: %d are live, %+v", live, in)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// The time for the first request is one in total, also where it is yet to be seen what is spoken.
func TestFirstByteCounts(t *testing.T) {
	withKey(t, func(l *lab) error {
		a := l.dial()
		time.Sleep(9 * time.Second)
		a.send([]byte{0x45})
		time.Sleep(4 * time.Second)
		l.settle()
		if _, eof := a.take(); !eof {
			return errors.New("13 s without a request, and connected still")
		}
		return nil
	})
}

// A device is put out also when that can not be stored; the operator is told.
func TestRemoveOnBrokenDisk(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1")
		if err != nil {
			return err
		}
		a := l.join(cam, "")
		a.take()
		if err := os.RemoveAll(l.g.c().StateDir); err != nil { // nothing can be written there any more
			return err
		}
		_, err = l.g.removePeer("cam1")
		l.settle()
		_, eof := a.take()
		if !errors.Is(err, peerstore.ErrUnavailable) || !eof {
			return fmt.Errorf("peer rm says %w, disconnected %v", err, eof)
		}
		return nil
	})
}

// picky is a host that does not take every route.
type picky struct {
	*memory
	refuses netip.Prefix
	wait    chan struct{} // if not nil, Apply of routes waits for it to be closed
	waits   chan struct{} // capacity 1: it does

	mu     sync.Mutex
	routes []netip.Prefix
}

func (e *picky) Apply(s hostnet.State) error {
	if slices.Contains(s.Routes, e.refuses) {
		return errors.New("another interface has it")
	}
	if len(s.Routes) > 0 && e.wait != nil {
		e.waits <- struct{}{}
		<-e.wait
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.routes = s.Routes
	return nil
}

// A route that the host can not have is refused, and keeps nothing else from working.
func TestBadRoute(t *testing.T) {
	withKey(t, func(l *lab) error {
		bad, good := netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("192.168.8.0/24")
		e := &picky{memory: l.m, refuses: bad}
		l.settle()
		l.g.exit = e
		key := func() string { return identity.NewKey().Public().String() }
		_, err := l.g.addPeer(api.Peer{Name: "bad", Key: key(), Routes: []netip.Prefix{bad}})
		if peers, _ := l.g.devices.List(time.Now()); err == nil || len(peers) != 0 {
			return fmt.Errorf("peer add says %v, and there are %d", err, len(peers))
		}
		// The host's network changes while a device is there.
		if _, err := l.g.devices.Add(peerstore.Peer{Name: "old", Key: identity.NewKey().Public(), Routes: []netip.Prefix{bad}}); err != nil {
			return err
		}
		if _, err := l.g.addPeer(api.Peer{Name: "good", Key: key(), Routes: []netip.Prefix{good}}); err != nil {
			return err
		}
		if !slices.Equal(e.routes, []netip.Prefix{good}) {
			return fmt.Errorf("the host has %v, want %s", e.routes, good)
		}
		_, err = newGateway(*l.g.c(), e, l.g.leases)
		return err
	})
}

// Of two changes at a time the later one is what stays.
func TestChangesInOrder(t *testing.T) {
	withKey(t, func(l *lab) error {
		e := &picky{memory: l.m, wait: make(chan struct{}), waits: make(chan struct{}, 1)}
		l.settle()
		l.g.exit = e
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = l.g.addPeer(api.Peer{Name: "cam", Key: identity.NewKey().Public().String(), Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}})
		})
		<-e.waits
		both.Go(func() { _, _ = l.g.removePeer("cam") })
		for range 10_000 { // it waits for a lock, which is no reason for fake time to pass
			runtime.Gosched()
		}
		close(e.wait)
		both.Wait()
		if len(e.routes) != 0 {
			return fmt.Errorf("the host routes %v, and there is no device", e.routes)
		}
		return nil
	})
}

// Requests of an operator that say nothing, or nonsense, change nothing.
func TestOperatorsMistakes(t *testing.T) {
	withKey(t, func(l *lab) error {
		if _, err := l.add("cam1"); err != nil {
			return err
		}
		if _, err := l.g.devices.Disable("cam1", true); err != nil {
			return err
		}
		_, change := l.g.changePeer("cam1", api.Change{})
		_, server := l.g.invite(api.Invite{Name: "a", Servers: []string{"not a url"}})
		_, empty := l.g.invite(api.Invite{Name: "b", Servers: []string{""}})
		_, long := l.g.invite(api.Invite{Name: "c", Servers: []string{"gw"}, TTL: 1e9})
		peers, open := l.g.devices.List(time.Now())
		for what, err := range map[string]error{"no change": change, "no URL": server, "empty URL": empty, "open for 30 years": long} {
			if err == nil {
				return fmt.Errorf("%s: no error", what)
			}
		}
		if !peers[0].Disabled || len(open) != 0 {
			return fmt.Errorf("%+v, %+v", peers, open)
		}
		return nil
	})
}
