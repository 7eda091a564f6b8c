// Package endpoint reads where gvproxy's API is served, and where notifications go: apart from package gvproxy, so that who reads a configuration does not carry
// an HTTP server.
package endpoint

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"ferry/internal/carrier"
)

// An Endpoint is where the API is served, and who may come.
type Endpoint struct{ carrier.Listening }

// Parse reads a URL: unix:///path, vsock://[cid]:port or tcp://127.0.0.1:port. unix takes ?uid=0,1000, and vsock ?cid=3,4: who may come; tcp takes
// ?from=anywhere, without which only an address of this host itself is let be one.
func Parse(s string) (e Endpoint, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return e, fmt.Errorf("%q is not a URL: %w", s, err)
	}
	if u.Scheme != "unix" && u.Scheme != "vsock" && u.Scheme != "tcp" {
		return e, fmt.Errorf("%q: gvproxy's API goes by unix, vsock or tcp: write unix:///run/ferry/gvproxy.sock, vsock://:1024 or tcp://127.0.0.1:7777", s)
	}
	open := u.Scheme == "tcp" && u.RawQuery == "from=anywhere"
	if open {
		u.RawQuery = ""
	}
	e.Listening, err = carrier.ParseListen(u.String())
	switch {
	case err != nil:
	case e.Allow != 0:
		err = fmt.Errorf("%q: allow= is for clients of the VPN", s)
	case u.Scheme != "unix" && u.Port() == "":
		err = fmt.Errorf("%q: name a port, as vsock://:1024 or tcp://127.0.0.1:7777", s)
	case u.Scheme == "tcp" && !open:
		if a, addrErr := netip.ParseAddr(e.Host); addrErr != nil || !a.IsLoopback() {
			err = fmt.Errorf("%q: whoever reaches it may do everything, for there is no authentication: take 127.0.0.1 or a unix socket, or say ?from=anywhere", s)
		}
	}
	return e, err
}

// SocketPath returns the path of a unix socket; empty: it is none.
func (e Endpoint) SocketPath() string {
	if e.Scheme == "unix" {
		return e.Path
	}
	return ""
}

// ParseNotification reads unix:///path.
func ParseNotification(s string) (path string, err error) {
	path, ok := strings.CutPrefix(s, "unix://")
	if !ok || !filepath.IsAbs(path) || strings.ContainsRune(path, '?') {
		return "", fmt.Errorf("%q: write unix:///run/x.sock, the socket on which a program listens", s)
	}
	return path, nil
}
