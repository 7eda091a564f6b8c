package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"ferry/internal/addrpool"
	"ferry/internal/carrier"
	"ferry/internal/carrier/dns"
	"ferry/internal/carrier/icmp"
	"ferry/internal/carrier/quic"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/udp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
	"ferry/internal/gateway/settings"
	"ferry/internal/l2port"
)

// A way is a kind of carrier by which clients can come.
type way struct {
	listen func(context.Context, carrier.Listening, *doorkeeper) (entrance, error)
	// from returns the context ID or the user ID at the other end; nil where there is none.
	from func(net.Conn) (uint32, error)
	// proves is set for a carrier that makes the handshake itself: nobody comes without a key.
	proves bool
	// strangers is set where clients without a key may come as well, if the listener allows that.
	strangers bool
}

// stream is a way by a carrier of bytes.
func stream(listen func(context.Context, carrier.Endpoint) (net.Listener, error), from func(net.Conn) (uint32, error)) way {
	return way{from: from, listen: func(ctx context.Context, e carrier.Listening, _ *doorkeeper) (entrance, error) {
		l, err := listen(ctx, e.Endpoint)
		if err != nil {
			return nil, err
		}
		return entranceOf[net.Conn]{l}, nil
	}}
}

// ways are all that there are, by the scheme of a URL. A new one is added here.
var ways = map[string]way{
	"tcp":   stream(tcp.Listen, nil),
	"vsock": stream(vsock.Listen, vsock.From),
	"unix":  stream(unix.Listen, unix.From),
	"ws":    stream(tcp.Listen, nil),
	"wss":   stream(tcp.Listen, nil),
	"ssh":   {listen: listenSSH, proves: true},
	"quic":  {listen: listenQUIC, proves: true},
	"udp":   datagrams(udp.Listen),
	"icmp":  datagrams(icmp.Listen),
	"dns":   datagrams(dns.Listen),

	"connect-ip":    {listen: listenConnectIP, proves: true, strangers: true},
	"connect-ip+h1": stream(tcp.Listen, nil),
}

func listenQUIC(ctx context.Context, e carrier.Listening, k *doorkeeper) (entrance, error) {
	l, err := quic.Listen(ctx, e.Endpoint, k.config())
	if err != nil {
		return nil, err
	}
	return entranceOf[*quic.Pending]{l}, nil
}

// listenAll opens the listeners that c names, all or none. Without names it serves TCP and, where the
// machine has it, vsock, which it can do without: vsock knows no network namespaces, so another gateway
// of the machine may have the port.
func listenAll(ctx context.Context, c *Config, k *doorkeeper) (all []*listener, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	urls := c.Listen
	if len(urls) == 0 && c.Profile == "" { // a profile brings machines, and opens nothing to the network by itself
		urls = []string{fmt.Sprintf("tcp://:%d", settings.DefaultPort)}
	}
	for _, url := range urls {
		l, err := listen(ctx, c, k, url)
		if err != nil {
			return all, err
		}
		l.number = byte(len(all))
		all = append(all, l)
	}
	for _, url := range c.L2Listen {
		l, err := listenMachine(ctx, url, k)
		if err != nil {
			return all, err
		}
		l.number = byte(len(all))
		all = append(all, l)
	}
	if len(c.Listen) == 0 && c.Profile == "" && vsock.Available() {
		l, err := listen(ctx, c, k, fmt.Sprintf("vsock://:%d", settings.DefaultPort))
		if err != nil {
			c.Log.Warn("no clients by vsock", "err", err)
			return all, nil
		}
		all = append(all, l)
	}
	return all, nil
}

func listen(ctx context.Context, c *Config, k *doorkeeper, url string) (*listener, error) {
	e, err := parseListen(c, url)
	if err != nil {
		return nil, err
	}
	w := ways[e.Scheme]
	l, err := w.listen(ctx, e, k)
	if err != nil {
		return nil, err
	}
	return &listener{entrance: l, at: e.Endpoint, allow: e.Allow, admit: permits(w, e), from: w.from}, nil
}

// parseListen returns what a URL stands for.
func parseListen(c *Config, url string) (carrier.Listening, error) {
	e, err := carrier.ParseListen(url)
	switch {
	case err != nil:
	case ways[e.Scheme].strangers && e.Allow != 0:
	case ways[e.Scheme].proves && e.Allow&^carrier.TLS != 0:
		err = fmt.Errorf("listen on %s: clients without a key come by tcp, vsock and unix only", e)
	case ways[e.Scheme].proves && !(ways[e.Scheme].strangers && c.Key.IsZero()):
		e.Allow = carrier.TLS
	case e.Allow == 0 && c.Key.IsZero():
		e.Allow = carrier.Plain
	case e.Allow == 0:
		e.Allow = carrier.TLS
	}
	if err == nil && e.Allow&(carrier.TLS|carrier.Web) != 0 && c.Key.IsZero() {
		err = fmt.Errorf("listen on %s: allow=%s needs a key: 'vpnsrv init' makes one", e, e.Allow)
	}
	return e, err
}

// Check says what would keep a gateway with a configuration from starting, as far as that can be told without
// touching the host.
func Check(c Config) error {
	c.SetDefaults()
	for _, url := range c.Listen {
		if _, err := parseListen(&c, url); err != nil {
			return err
		}
	}
	for _, url := range c.L2Listen {
		if _, err := l2port.Parse(url); err != nil {
			return err
		}
	}
	_, err := addrpool.New(poolConfig(&c))
	return errors.Join(err, nameSettings(&c).Check())
}

// source is what stands for where a connection comes from, to be bounded: an IP address; for a guest or a
// socket, which have none, an address that nobody has (RFC 4193) with the number of it.
func (l *listener) source(a arrival) netip.Addr {
	if from, ok := a.RemoteAddr().(interface{ AddrPort() netip.AddrPort }); ok {
		return from.AddrPort().Addr()
	}
	b := [16]byte{0: 0xfd, 1: l.number}
	if conn, ok := a.(net.Conn); ok && l.from != nil {
		if id, err := l.from(conn); err == nil {
			binary.BigEndian.PutUint32(b[4:], id)
		}
	}
	return netip.AddrFrom16(b)
}

// permits returns what tells whether a connection comes from where it may; nil: from anywhere.
func permits(w way, e carrier.Listening) func(net.Conn) error {
	if len(e.From) == 0 || w.from == nil {
		return nil
	}
	return func(conn net.Conn) error {
		id, err := w.from(conn)
		if err == nil && !e.Admits(id) {
			err = fmt.Errorf("%w: %d", errFrom, id)
		}
		return err
	}
}
