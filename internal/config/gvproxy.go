package config

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"

	"ferry/internal/api/gvproxy/endpoint"
	"ferry/internal/gateway/settings"
)

// Of gvproxy's address plan.
const (
	gvproxyPool = "192.168.127.0/24"
	gvproxyMAC  = "5a-94-ef-e4-0c-ee" // that gvforwarder gives its machine
	gvproxySSH  = "tcp://127.0.0.1:2222"
)

func (g *Gateway) gvproxyFlags(fs *pflag.FlagSet) {
	fs.StringVar(&g.Profile, "profile", "", "`name` of settings that go together: gvproxy, its address plan, names and forward, with --exit user (docs/gvproxy.md);\neach can be set otherwise, and only what is named is listened on")
	fs.StringArrayVar(&g.GvproxyAPI, "gvproxy-api", nil, "`URL` on which gvproxy's HTTP API is served: unix:///path, vsock://:port or tcp://127.0.0.1:port; repeatable")
	fs.StringArrayVar(&g.GvproxyListen, "gvproxy-listen", nil, "`URL` of the same with /connect, by which gvforwarder plugs machines in; repeatable")
	fs.BoolVar(&g.GvproxyInside, "gvproxy-inside", false, "let clients expose ports of their own addresses by that API, on port 80 of the gateway's address")
	fs.StringVar(&g.Notification, "notification", "", "`URL` of a socket, unix:///path, on which a program hears of clients that come and go")
}

// isSet tells whether a key was given by the file or a flag.
func (g *Gateway) isSet(s *source, key string) bool {
	f := g.flags.Lookup(flagName(key))
	return f != nil && f.Changed || s.isSet(key)
}

// applyProfile puts what the profile says where nothing else was said.
func (g *Gateway) applyProfile(s *source) {
	if g.Profile != settings.ProfileGvproxy {
		return
	}
	given := func(key string) bool { return g.isSet(s, key) }
	if !given("pool") {
		g.Pool = gvproxyPool
	}
	if !given("exit") {
		g.Exit = settings.ExitUser
	}
	if !given("nameserver") {
		g.Nameserver = true
	}
	machines, err := parsePool(g.Pool)
	key, text := "pool", g.Pool
	if g.Key != "" && err == nil { // devices have the upper half, for the machine is .2
		if !given("plain_pool") {
			g.PlainPool = netip.PrefixFrom(machines.Addr(), machines.Bits()+1).String()
		}
		key, text = "plain_pool", g.PlainPool
		machines, err = parsePool(g.PlainPool)
	}
	if err != nil || machines.Bits() > 29 {
		s.fail(key, fmt.Errorf("%s: the profile takes a network of /16 to /29 for machines", text))
		return
	}
	device, host := machines.Addr().Next().Next(), lastHost(machines)
	if !given("reserved") {
		g.Reserved = map[string]string{gvproxyMAC: device.String()}
	}
	if !given("alias") && g.Exit == settings.ExitUser {
		g.Alias = map[string]string{host.String(): "127.0.0.1"}
	}
	if !given("forwards") {
		g.Forwards = map[string]string{gvproxySSH: netip.AddrPortFrom(device, 22).String()}
	}
}

// lastHost is the last address before the broadcast address.
func lastHost(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	b[3]--
	return netip.AddrFrom4(b)
}

func parseProfile(s string) (string, error) {
	if s != "" && s != settings.ProfileGvproxy {
		return s, fmt.Errorf("unknown profile %q: there is %s", s, settings.ProfileGvproxy)
	}
	return s, nil
}

func parseGvproxy(s string) (string, error) {
	_, err := endpoint.Parse(s)
	return s, err
}

func parseFile(s string) (string, error) {
	if !filepath.IsAbs(s) {
		return s, fmt.Errorf("%q: write the whole path of a file", s)
	}
	return filepath.Clean(s), nil
}

func parseNotification(s string) (string, error) {
	_, err := endpoint.ParseNotification(s)
	return s, err
}

// aliases reads which destinations stand for others. One in the pool is an address that no client gets: clients with a key neither.
func aliases(s *source, texts map[string]string, c *settings.Config) map[netip.Addr]netip.Addr {
	all := make(map[netip.Addr]netip.Addr)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		key := "alias." + name
		a := read(s, key, name, parseDestination)
		if a.IsValid() && c.Pool.Contains(a) {
			read(s, key, name, inPool(c.PlainPool))
			for other, reserved := range c.Reserved {
				if a == reserved {
					s.fail(key, fmt.Errorf("%s is reserved for %q", a, other))
				}
			}
		}
		all[a] = read(s, key, texts[name], parseDestination)
	}
	return all
}
