package vtunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"unicode"

	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
)

// A Listening is where clients come in, and what they may ask for there.
type Listening struct {
	at     carrier.Listening
	Auth   string         // empty: DefaultAuth
	Accept []netip.Prefix // none: Loopback
}

// ParseListen reads a URL to listen on: vsock://[cid]:port, unix:///path or tcp://host:port, each with ?auth=STRING and
// &accept=CIDR, several with commas between; vsock with &cid=3,4, the guests that may come; unix with &uid=0,1000.
func ParseListen(s string) (Listening, error) {
	var l Listening
	u, err := url.Parse(s)
	if err != nil {
		return l, fmt.Errorf("%q is not a URL: %w", s, err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return l, fmt.Errorf("%q: %w", s, err)
	}
	if len(q["auth"]) > 1 || len(q["accept"]) > 1 {
		return l, fmt.Errorf("%q: auth and accept can be there once: write accept=10.0.0.0/8,127.0.0.1/32 for several", s)
	}
	if l.Auth = q.Get("auth"); q.Has("auth") {
		if err := CheckAuth(l.Auth); err != nil {
			return l, fmt.Errorf("%q: %w", s, err)
		}
	}
	if q.Has("accept") {
		for text := range strings.SplitSeq(q.Get("accept"), ",") {
			p, err := ParseAccept(text)
			if err != nil {
				return l, fmt.Errorf("%q: accept=%w", s, err)
			}
			l.Accept = append(l.Accept, p)
		}
	}
	q.Del("auth")
	q.Del("accept")
	if u.RawQuery = q.Encode(); u.Port() == "" && u.Scheme != "unix" {
		u.Host += fmt.Sprintf(":%d", DefaultPort)
	}
	if l.at, err = carrier.ParseListen(u.String()); err != nil {
		return l, err
	}
	_, known := listeners[l.at.Scheme]
	switch {
	case !known:
		return l, fmt.Errorf("%q: vtunnel goes by vsock, unix or tcp: write vsock://:%d, or unix:///path", s, DefaultPort)
	case l.at.Allow != 0:
		return l, fmt.Errorf("%q: allow= is for clients of the VPN; clients of vtunnel show auth=", s)
	case l.at.Scheme == "tcp" && l.at.Host == "":
		return l, fmt.Errorf("%q: nothing is encrypted here: name an address, as in tcp://127.0.0.1:%d", s, DefaultPort)
	}
	return l, nil
}

// CheckAuth refuses what can be no auth string.
func CheckAuth(s string) error {
	if s == "" || strings.ContainsFunc(s, unicode.IsSpace) {
		return errors.New("an auth string is not empty and has no spaces")
	}
	return nil
}

// ParseAccept reads a network that destinations may be in. As with the original, host bits do not count.
func ParseAccept(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return p, fmt.Errorf("%q is no IPv4 network: write it as 10.0.0.0/8, or 127.0.0.1/32", s)
	}
	return p.Masked(), nil
}

// A way is a carrier by which clients come.
type way struct {
	listen func(context.Context, carrier.Endpoint) (net.Listener, error)
	from   func(net.Conn) (uint32, error) // the context ID or the user ID at the other end; nil: none
}

var listeners = map[string]way{
	"tcp":   {tcp.Listen, nil},
	"vsock": {vsock.Listen, vsock.From},
	"unix":  {unix.Listen, unix.From},
}

// Listen opens a listener.
func (l Listening) Listen(ctx context.Context) (net.Listener, error) {
	return listeners[l.at.Scheme].listen(ctx, l.at.Endpoint)
}

// Path returns that of a unix socket; empty: it is none.
func (l Listening) Path() string {
	if l.at.Scheme != "unix" {
		return ""
	}
	return l.at.Path
}

// String returns the URL without the auth string.
func (l Listening) String() string { return l.at.String() }

// Admit returns the source of a connection, which is an address, or the number of a context or a user in the form of one; or why it may not come in.
func (l Listening) Admit(conn net.Conn) (source netip.Addr, err error) {
	from := listeners[l.at.Scheme].from
	if from == nil {
		at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		return at.Addr(), err
	}
	id, err := from(conn)
	if err == nil && !l.at.Admits(id) {
		err = fmt.Errorf("%d is not among those that may come in", id)
	}
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, id))), err
}

// ParseDial reads where a server is: vsock://cid:port, unix:///path, unix:///path?vsock=port or tcp://host:port.
func ParseDial(s string) (carrier.Endpoint, error) {
	e, err := carrier.ParseDial(s, DefaultPort)
	if _, known := listeners[e.Scheme]; err == nil && !known {
		err = fmt.Errorf("%q: vtunnel goes by vsock, unix or tcp: write vsock://2:%d, or unix:///path", s, DefaultPort)
	}
	return e, err
}

// Dial connects to a server.
func Dial(ctx context.Context, e carrier.Endpoint) (net.Conn, error) {
	switch e.Scheme {
	case "vsock":
		return vsock.Dial(ctx, e, nil)
	case "unix":
		return unix.Dial(ctx, e, nil)
	}
	return tcp.Dial(ctx, e, nil)
}
