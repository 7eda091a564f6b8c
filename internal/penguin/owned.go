package penguin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"ferry/internal/netstack"
	"ferry/internal/penguin/wire"
	"ferry/internal/relay"
	"ferry/internal/tun"
)

// An OwnedConfig is an interface that a Guest makes, and a host on the wire behind it.
type OwnedConfig struct {
	Name  string
	Host  netip.Addr   // of the host on the wire
	Guest netip.Prefix // of the interface
}

// Addresses of an interface where none are said.
var (
	defaultHost  = netip.MustParseAddr("203.0.113.1")
	defaultGuest = netip.MustParseAddr("203.0.113.2")
)

const defaultBits = 24

// ParseOwned reads NAME:HOST_IP/GUEST_IP/PREFIX, of which all but the name may be missing.
func ParseOwned(s string) (OwnedConfig, error) {
	name, rest, _ := strings.Cut(s, ":")
	parts := strings.Split(rest, "/")
	if name == "" || len(name) > 15 || len(parts) > 3 || strings.ContainsAny(name, "/ %") {
		return OwnedConfig{}, fmt.Errorf("%q: write NAME:HOST_IP/GUEST_IP/PREFIX, as wan0:203.0.113.1/203.0.113.2/24", s)
	}
	parts = append(parts, "", "")
	return NewOwned(name, parts[0], parts[1], parts[2])
}

// NewOwned returns an interface of texts that may be empty.
func NewOwned(name, host, guest, prefix string) (OwnedConfig, error) {
	o := OwnedConfig{Name: name, Host: defaultHost}
	addr, bits := defaultGuest, defaultBits
	var faults [3]error
	if host != "" {
		o.Host, faults[0] = netip.ParseAddr(host)
	}
	if guest != "" {
		addr, faults[1] = netip.ParseAddr(guest)
	}
	if prefix != "" {
		bits, faults[2] = strconv.Atoi(prefix)
	}
	o.Guest = netip.PrefixFrom(addr, bits)
	err := errors.Join(faults[:]...)
	switch {
	case err != nil:
	case !o.Host.Is4() || !addr.Is4() || !o.Guest.IsValid():
		err = errors.New("two IPv4 addresses and a length from 0 to 32 are expected")
	case o.Host == addr || !o.Guest.Contains(o.Host):
		err = fmt.Errorf("%s and %s are not two addresses of one network of /%d", o.Host, addr, bits)
	}
	if err != nil {
		return o, fmt.Errorf("interface %s: %w", name, err)
	}
	return o, nil
}

// neighbourMAC is the original's. Each interface is an Ethernet of its own, so it may be the same on all.
var neighbourMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

const (
	ownedMTU       = 1500
	ethernetHeader = 14
)

// An owned interface is a TAP with a neighbour behind it:
//
//	kernel --> TAP --run--> neighbour            (TCP, ARP, pings)
//	                   \--> packets of a protocol, frames: taps, each with a queue
//	kernel <-- TAP <------- neighbour, taps
type owned struct {
	c         OwnedConfig
	tap       *tun.TAP
	neighbour *netstack.Neighbour

	mu   sync.Mutex // guards what follows
	taps map[*tap]struct{}
	l2   *tap // of all frames; the last one that came
	gone bool // somebody has deleted the interface
}

// maxTaps is how many may listen on an interface.
const maxTaps = 16

// own makes an interface, until ctx is done. One that can not be made is told, and left out, as by the original.
func (g *Guest) own(ctx context.Context, work *sync.WaitGroup, c OwnedConfig) {
	if _, ok := g.owned[c.Name]; ok {
		g.c.Log.Error("own-iface: the interface is named twice", "iface", c.Name)
		return
	}
	t, err := tun.OpenTAP(c.Name, ownedMTU, c.Guest)
	if err != nil {
		g.c.Log.Error("own-iface", "iface", c.Name, "err", err)
		return
	}
	o := &owned{c: c, tap: t, taps: map[*tap]struct{}{}}
	o.neighbour, err = netstack.NewNeighbour(netip.PrefixFrom(c.Host, c.Guest.Bits()), neighbourMAC, ownedMTU, func(frame []byte) error {
		_, err := t.Write(frame)
		return err
	})
	if err != nil {
		_ = t.Close()
		g.c.Log.Error("own-iface", "iface", c.Name, "err", err)
		return
	}
	g.owned[c.Name] = o
	work.Go(func() {
		stop := context.AfterFunc(ctx, func() { _ = t.Close() })
		defer stop()
		o.run()
		if ctx.Err() == nil {
			g.c.Log.Error("own-iface: the interface was deleted; start the guest again to have it back", "iface", c.Name)
		}
		o.end()
		_ = t.Close()
	})
}

// end ends who listens, and what passes.
func (o *owned) end() {
	o.mu.Lock()
	o.gone = true
	taps := slices.Collect(maps.Keys(o.taps))
	o.mu.Unlock()
	for _, t := range taps {
		t.w.close()
	}
	o.neighbour.Close()
}

// interfaceOf returns the interface of a name; nil: there is none, or none any more.
func (g *Guest) interfaceOf(name string) *owned {
	o := g.owned[name]
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return nil
	}
	return o
}

// run hands on what the kernel sends, until the TAP is closed.
func (o *owned) run() {
	b := make([]byte, relay.Size)
	for {
		n, err := o.tap.Read(b)
		if err != nil {
			return
		}
		o.hand(b[:n])
		o.neighbour.Deliver(b[:n])
	}
}

// routed serves a Forward through an interface, of which only the port counts.
func (g *Guest) routed(ctx context.Context, conn stream, r wire.Request) {
	o := g.interfaceOf(r.Iface)
	if o == nil || r.Transport != wire.TCP {
		g.answer(conn, wire.Failed)
		g.count[reasonInterface].Add(1)
		return
	}
	dialling, cancel := context.WithTimeout(ctx, synTime)
	defer cancel()
	far, err := o.neighbour.Dial(dialling, netip.AddrPortFrom(o.c.Guest.Addr(), r.Dst.Port()))
	if err != nil {
		g.count[reasonDial].Add(1)
		g.answer(conn, statusOf(err))
		return
	}
	if !g.answer(conn, wire.Connected) {
		_ = far.Close()
		return
	}
	g.count[connected].Add(1)
	p := pipe{host: conn, service: far, rest: g.c.RestTime}
	p.run(ctx)
}

func (g *Guest) answer(conn stream, s wire.Status) bool {
	_, err := conn.Write([]byte{byte(s)})
	return err == nil
}

// statusOf says what a firewall has done. One that answers by ICMP that nobody may come (RFC 1812, section 5.2.7.1) has filtered, as nmap calls it, too.
func statusOf(err error) wire.Status {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return wire.Refused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return wire.Filtered
	}
	return wire.Failed
}
