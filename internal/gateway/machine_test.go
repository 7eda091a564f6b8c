package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/l2port"
	"ferry/internal/l2port/ether"
)

var (
	mac1 = ether.MAC{0x52, 0x54, 0, 0, 0, 1}
	mac2 = ether.MAC{0x52, 0x54, 0, 0, 0, 2}
)

// The address of a machine belongs to its MAC, also after a restart; of two with one MAC each has its own; what a machine would like
// to have it gets while that is free; and an address that is reserved for its name.
func TestMachineLeases(t *testing.T) {
	c := Config{StateDir: t.TempDir(), Reserved: map[string]netip.Addr{mac2.String(): netip.MustParseAddr("10.0.9.9")}}
	c.SetDefaults()
	open := func() *leases {
		l, err := openLeases(&c)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	get := func(owner uint64, mac ether.MAC, wanted string) string {
		t.Helper()
		a, _ := netip.ParseAddr(wanted)
		g, err := l.grantMachine(t.Context(), owner, mac, a)
		if err != nil {
			t.Fatal(err)
		}
		if g.Displaced != 0 {
			t.Fatalf("%d displaces %d", owner, g.Displaced)
		}
		return g.Lease.Addr.String()
	}
	first, clone := get(1, mac1, ""), get(2, mac1, "")
	if first == clone {
		t.Fatalf("two machines have %s", first)
	}
	l.release(1, true)
	if got := get(3, mac2, ""); got != "10.0.9.9" {
		t.Errorf("reserved is 10.0.9.9, got %s", got)
	}
	if got := get(8, mac2, ""); got == "10.0.9.9" {
		t.Error("two machines of one MAC have what is reserved for it")
	}
	if got := get(4, mac1, clone); got != first {
		t.Errorf("came back and got %s, had %s", got, first)
	}
	if got := get(5, ether.MAC{2}, first); got == first {
		t.Errorf("a stranger got %s, which it has asked for", got)
	}
	if got := get(6, ether.MAC{4}, "10.0.77.7"); got != "10.0.77.7" {
		t.Errorf("asked for a free address and got %s", got)
	}
	l.release(2, false)
	l.release(4, true)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open()
	defer l.Close()
	if got := get(7, mac1, ""); got != first {
		t.Errorf("after a restart: got %s, had %s", got, first)
	}
}

// A client that calls itself by the name of a machine does not get its address, nor does the machine get that of the client.
func TestMachineNameIsNoProof(t *testing.T) {
	c := Config{StateDir: t.TempDir()}
	c.SetDefaults()
	l, err := openLeases(&c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g, err := l.grantMachine(t.Context(), 1, mac1, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	l.release(1, true)
	for _, h := range l.pool.Holdings() {
		other := h.Lease
		if other.Token[0]++; !ofMachine(h.Lease, mac1) || ofMachine(h.Lease, mac2) {
			t.Errorf("%+v is whose?", h.Lease)
		}
		if clear(other.Token[:]); ofMachine(other, mac1) {
			t.Error("the name alone proves it")
		}
	}
	if g.Lease.Name != "52-54-00-00-00-01" {
		t.Errorf("named %q", g.Lease.Name)
	}
}

// plugged is an arrival in memory.
type plugged struct {
	net.Conn
	g *Gateway
}

func (p *plugged) Handshake(context.Context) (carrier.Link, identity.Protocol, identity.Public, error) {
	return l2port.NewLink(p.Conn, l2port.Lengths32, p.RemoteAddr(), p.g.cable()), identity.Tunnel, identity.Public{}, nil
}

func (l *lab) plug() *raw {
	a, b := net.Pipe()
	l.m.conns <- &plugged{b, l.g}
	return collect(a)
}

// discover is a frame with its length: a machine that looks for a DHCP server.
func discover(mac ether.MAC) []byte {
	body := make([]byte, 240, 244)
	body[0], body[1], body[2] = 1, 1, 6
	copy(body[28:], mac[:])
	copy(body[236:], []byte{99, 130, 83, 99})
	body = append(body, 53, 1, 1, 255)
	ip := ipPacket("0.0.0.0", "255.255.255.255")
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(body)))
	ip[21], ip[23] = 68, 67
	f := slices.Concat(bytes.Repeat([]byte{255}, 6), mac[:], []byte{8, 0}, ip, body)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(f))), f...)
}

// A machine may boot for an hour, and then sleep for another: it is no client that has gone. It joins when it asks for an address, and
// leaves when its cable is pulled out, or when nobody can tell its frames apart.
func TestMachineSleeps(t *testing.T) {
	err := inMemory(t, Config{}, func(l *lab) error {
		one := l.plug()
		l.settle()
		two := l.plug()
		time.Sleep(time.Hour)
		one.send(discover(mac1))
		l.settle()
		time.Sleep(time.Hour)
		l.settle()
		offer, gone := one.take()
		if gone || len(offer) < 300 {
			return fmt.Errorf("got %d bytes, disconnected: %v", len(offer), gone)
		}
		all := l.g.sessions()
		if len(all) != 2 || all[0].Address.String() != "10.0.254.254" || all[0].Name != mac1.String() || all[1].Address.IsValid() {
			return fmt.Errorf("got %+v", all)
		}
		if leases := l.g.leases.list(); len(leases) != 1 || leases[0].Name != mac1.String() {
			return fmt.Errorf("leases %+v", leases)
		}
		two.send([]byte{0, 1, 0, 14})
		_ = one.conn.Close()
		l.settle()
		closed := l.g.closed.counts()
		if closed["bad_ethernet"] != 1 || closed["closed"] != 1 || len(l.g.sessions()) != 0 {
			return fmt.Errorf("closed %v, there are %v", closed, l.g.sessions())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Where no address is left a machine stays, and gets one when it asks again.
func TestMachineWaitsForAnAddress(t *testing.T) {
	err := inMemory(t, Config{Pool: netip.MustParsePrefix("10.0.0.0/30")}, func(l *lab) error {
		client := l.dial()
		client.send(request("", 0))
		l.settle()
		m := l.plug()
		m.send(discover(mac1))
		l.settle()
		if got, gone := m.take(); gone || len(got) > 0 {
			return fmt.Errorf("a full pool: got %d bytes, disconnected: %v", len(got), gone)
		}
		_ = client.conn.Close()
		l.settle()
		m.send(discover(mac1))
		l.settle()
		if got, gone := m.take(); gone || len(got) < 300 {
			return fmt.Errorf("got %d bytes, disconnected: %v", len(got), gone)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// All sockets open, or none; and --check knows what can not be.
func TestMachineSockets(t *testing.T) {
	dir := t.TempDir()
	c := Config{StateDir: dir, Listen: []string{"unix://" + filepath.Join(dir, "clients")}, L2Listen: []string{"qemu+unix://" + filepath.Join(dir, "a"), "bess+unix://" + filepath.Join(dir, "a")}}
	c.SetDefaults()
	if all, err := listenAll(t.Context(), &c, newDoorkeeper(c.Key)); err == nil {
		closeAll(all)
		t.Error("two listen on one path")
	}
	c.L2Listen = c.L2Listen[:1]
	all, err := listenAll(t.Context(), &c, newDoorkeeper(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	closeAll(all)
	if len(all) != 2 || all[1].reaches() || listenerURL(all[1]) != c.L2Listen[0] {
		t.Errorf("got %v", all)
	}
	c.L2Listen = []string{"qemu+tcp://0.0.0.0:1"}
	if err := Check(c); err == nil {
		t.Error("a port for everybody passes")
	}
	if _, err := listenMachine(t.Context(), "unix:///x", newDoorkeeper(c.Key)); err == nil || errors.Is(err, errNotYet) {
		t.Errorf("got %v", err)
	}
}
