package gateway

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"ferry/internal/addrpool"
	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
	"ferry/internal/gateway/settings"
)

// A way is a kind of carrier by which clients can come.
type way struct {
	listen func(context.Context, carrier.Endpoint) (net.Listener, error)
	// from returns the context ID or the user ID at the other end; nil where there is none.
	from func(net.Conn) (uint32, error)
}

// ways are all that there are, by the scheme of a URL. A new one is added here.
var ways = map[string]way{
	"tcp":   {tcp.Listen, nil},
	"vsock": {vsock.Listen, vsock.From},
	"unix":  {unix.Listen, unix.From},
}

// listenAll opens the listeners that c names, all or none. Without names it serves TCP and, where the
// machine has it, vsock, which it can do without: vsock knows no network namespaces, so another gateway
// of the machine may have the port.
func listenAll(ctx context.Context, c *Config) (all []*listener, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	urls := c.Listen
	if len(urls) == 0 {
		urls = []string{fmt.Sprintf("tcp://:%d", settings.DefaultPort)}
	}
	for _, url := range urls {
		l, err := listen(ctx, c, url)
		if err != nil {
			return all, err
		}
		l.number = byte(len(all))
		all = append(all, l)
	}
	if len(c.Listen) == 0 && vsock.Available() {
		l, err := listen(ctx, c, fmt.Sprintf("vsock://:%d", settings.DefaultPort))
		if err != nil {
			c.Log.Warn("no clients by vsock", "err", err)
			return all, nil
		}
		all = append(all, l)
	}
	return all, nil
}

func listen(ctx context.Context, c *Config, url string) (*listener, error) {
	e, err := parseListen(c, url)
	if err != nil {
		return nil, err
	}
	w := ways[e.Scheme]
	l, err := w.listen(ctx, e.Endpoint)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: l, allow: e.Allow, admit: permits(w, e), from: w.from}, nil
}

// parseListen returns what a URL stands for.
func parseListen(c *Config, url string) (carrier.Listening, error) {
	e, err := carrier.ParseListen(url)
	switch {
	case err != nil:
	case e.Allow == 0 && c.Key.IsZero():
		e.Allow = carrier.Plain
	case e.Allow == 0:
		e.Allow = carrier.TLS
	case e.Allow&carrier.TLS != 0 && c.Key.IsZero():
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
	_, err := addrpool.New(poolConfig(&c))
	return err
}

// source is what stands for where a connection comes from, to be bounded: an IP address; for a guest or a
// socket, which have none, an address that nobody has (RFC 4193) with the number of it.
func (l *listener) source(conn net.Conn) netip.Addr {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr()
	}
	b := [16]byte{0: 0xfd, 1: l.number}
	if l.from != nil {
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
