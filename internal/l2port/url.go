package l2port

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// An Endpoint is where machines are plugged in.
type Endpoint struct {
	Scheme  string  // qemu+unix and so on
	Framing Framing // of what is exchanged there
	network string  // of package net; empty: stdin and stdout
	address string
}

// schemes are all that there are. A new one is added here.
var schemes = map[string]struct {
	framing Framing
	network string
}{
	"qemu+unix":  {Lengths32, "unix"},
	"qemu+tcp":   {Lengths32, "tcp"},
	"bess+unix":  {Datagrams, "unixpacket"},
	"vfkit+unix": {Datagrams, "unixgram"},
	"stdio":      {Lengths16, ""},
}

// Parse reads a URL for machines: qemu+unix:///path, qemu+tcp://127.0.0.1:port[?from=anywhere], bess+unix:///path,
// vfkit+unix:///path, or stdio:.
func Parse(s string) (Endpoint, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%q is not a URL: %w", s, err)
	}
	kind, ok := schemes[u.Scheme]
	if !ok {
		return Endpoint{}, fmt.Errorf("%q: write stdio:, qemu+unix:///path, qemu+tcp://127.0.0.1:port, bess+unix:///path or vfkit+unix:///path", s)
	}
	e := Endpoint{Scheme: u.Scheme, Framing: kind.framing, network: kind.network}
	open := u.RawQuery == "from=anywhere"
	switch {
	case u.Fragment != "" || u.User != nil || u.RawQuery != "" && !(open && e.network == "tcp"):
		err = fmt.Errorf("%q: only qemu+tcp takes a setting, ?from=anywhere", s)
	case e.network == "":
		if u.Host != "" || u.Path != "" || u.Opaque != "" {
			err = fmt.Errorf("%q: write stdio: and nothing behind it", s)
		}
	case e.network == "tcp":
		e.address = u.Host
		err = checkTCP(s, u, open)
	case u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasSuffix(u.Path, "/"):
		err = fmt.Errorf("%q: write an absolute path behind three slashes: %s:///run/ferry/vm.sock", s, u.Scheme)
	default:
		e.address = u.Path
	}
	return e, err
}

func checkTCP(s string, u *url.URL, open bool) error {
	at, err := netip.ParseAddrPort(u.Host)
	switch {
	case err != nil || u.Path != "":
		return fmt.Errorf("%q: write an address and a port: qemu+tcp://127.0.0.1:1234", s)
	case !at.Addr().IsLoopback() && !open:
		return fmt.Errorf("%q: whoever reaches it joins, for there is no authentication: take 127.0.0.1 or a unix socket, or say ?from=anywhere", s)
	}
	return nil
}

// String returns e as a URL, without its settings.
func (e Endpoint) String() string {
	if e.network == "" {
		return e.Scheme + ":"
	}
	return e.Scheme + "://" + e.address
}

// Path returns the path of the socket; empty: it is none of unix.
func (e Endpoint) Path() string {
	if strings.HasPrefix(e.network, "unix") {
		return e.address
	}
	return ""
}

// An Addr is where a machine is plugged in.
type Addr struct{ scheme, at string }

// Network returns the scheme of the URL.
func (a Addr) Network() string { return a.scheme }

// String returns the address or the path.
func (a Addr) String() string { return a.at }

var _ net.Addr = Addr{}
