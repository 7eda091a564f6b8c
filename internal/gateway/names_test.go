package gateway

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ferry/internal/api"
	"ferry/internal/identity"
	"ferry/internal/nameserver"
)

// withPorts is an exit with ports of its own.
type withPorts struct {
	*memory
	fault error
	udp   net.PacketConn
}

func (e *withPorts) ListenUDP(uint16) (u net.PacketConn, err error) {
	e.udp, err = net.ListenPacket("udp", "127.0.0.1:0")
	return e.udp, err
}

func (e *withPorts) ListenTCP(uint16) (net.Listener, error) {
	if e.fault != nil {
		return nil, e.fault
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// Names of devices, and those that the configuration gives to others, are known in any case; whom the operator has put out, and what strangers call themselves, are not.
func TestDirectory(t *testing.T) {
	key := identity.NewKey()
	reserved := map[string]netip.Addr{"Printer": netip.MustParseAddr("10.0.200.7"), "cam1": netip.MustParseAddr("10.0.200.8")}
	err := inMemory(t, Config{Key: key, Reserved: reserved}, func(l *lab) error {
		add := func(name, addr string) error {
			_, err := l.g.addPeer(api.Peer{Name: name, Key: identity.NewKey().Public().String(), Addresses: []netip.Addr{netip.MustParseAddr(addr)}})
			return err
		}
		if err := errors.Join(add("Cam1", "10.0.3.7"), add("out", "10.0.3.8")); err != nil {
			return err
		}
		off := true
		if _, err := l.g.changePeer("out", api.Change{Disabled: &off}); err != nil {
			return err
		}
		d := directory{l.g}
		for name, want := range map[string]string{"cam1": "10.0.3.7", "printer": "10.0.200.7", "out": "", "nobody": ""} {
			addrs, ok := d.Lookup(name)
			if ok != (want != "") || ok && !slices.Equal(addrs, []netip.Addr{netip.MustParseAddr(want)}) {
				t.Errorf("%s: got %v, %v, want %s", name, addrs, ok, want)
			}
		}
		for addr, want := range map[string]string{"10.0.3.7": "Cam1", "10.0.200.7": "Printer", "10.0.3.8": "", "10.0.3.9": ""} {
			if name, ok := d.Name(netip.MustParseAddr(addr)); name != want || ok != (want != "") {
				t.Errorf("%s: got %q, %v, want %q", addr, name, ok, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNameSettings(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8"), netip.MustParseAddr("10.0.0.9")
	config := Config{DNSZones: map[string]map[string]netip.Addr{"example": {"www": a, "@": b, "*": c}, "lab.example": {"*": a}}}
	s := nameSettings(&config)
	if err := Check(config); err != nil {
		t.Error(err)
	}
	if len(s.Zones) != 2 || s.Zones[0].Name != "lab.example" || s.Zones[0].DefaultIP != a || s.Zones[1].DefaultIP != c ||
		!slices.Equal(s.Zones[1].Records, []nameserver.Record{{IP: b}, {Name: "www", IP: a}}) {
		t.Errorf("got %+v", s.Zones)
	}
	config.DNSZones["a..b"] = nil
	if err := Check(config); err == nil {
		t.Error("a zone that is no domain was taken")
	}
}

// A gateway opens its name server, changes what that knows with a reload, and gives its sockets back when it can not have both.
func TestOpenNames(t *testing.T) {
	c := Config{Nameserver: true, StateDir: t.TempDir()}
	c.Reread = func() (Config, error) {
		wanted := c
		wanted.DNSZones = map[string]map[string]netip.Addr{"lab.example": nil}
		return wanted, nil
	}
	c.SetDefaults()
	leases, err := openLeases(&c)
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Close()
	e := &withPorts{memory: newMemory(), fault: errors.New("no port is left")}
	g, err := newGateway(c, e, leases)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.openNames(t.Context()); !errors.Is(err, e.fault) || g.names != nil || g.status().Names != nil {
		t.Errorf("got %v", err)
	}
	if _, err := e.udp.WriteTo(nil, e.udp.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the other socket is open still: %v", err)
	}
	e.fault = nil
	if err := g.openNames(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer g.names.close()
	if _, ok := g.status().Names["local"]; !ok {
		t.Error("the status has no counts")
	}
	if done, err := g.reload(); err != nil || strings.Join(done.Applied, " ") != "dns_zones" || len(done.Waiting) != 0 {
		t.Errorf("reload: %+v, %v", done, err)
	}
}
