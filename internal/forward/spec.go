package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// A Spec is one forward as it is asked for.
type Spec struct {
	From Entrance
	To   Target
	// Via connects instead of Network.Dial: to something behind To, as a socket of a client by SSH. What it returns is an io.WriterTo
	// that has CloseWrite. nil: To is all there is.
	Via func(context.Context) (net.Conn, error)
}

// Parse reads a forward, as tcp://:8080 and 10.0.3.4:80.
func Parse(from, to string) (Spec, error) {
	e, err := ParseEntrance(from)
	if err != nil {
		return Spec{}, err
	}
	t, err := ParseTarget(to)
	if err == nil && e.Source.IsValid() && t.Addr.IsValid() && e.Source.Is4() != t.Addr.Is4() {
		err = fmt.Errorf("source %s and %s are not of one family", e.Source, t.Addr)
	}
	return Spec{From: e, To: t}, err
}

// An Entrance is where a forward listens:
//
//	tcp://[address]:port   udp://[address]:port   unix:///path
//
// Port 0 is any, "8080+" the next that is free, and "8080+1000" the next that is in strides of 1000, as Penguin has it. Behind it:
//
//	?from=192.168.0.0/16,10.0.0.5   who may come; default: everybody
//	?proxy=1 or 2                   the client hears who came by a header (PROXY protocol), not with udp
//	?source=10.0.0.1                from which address of this host the client sees it come; default: as the kernel chooses
type Entrance struct {
	Scheme string     // tcp, udp or unix
	Host   netip.Addr // not valid: all addresses
	Port   uint16
	Step   int    // 0: this port or none
	Path   string // of a unix socket

	Accept []netip.Prefix // none: everybody
	Proxy  int            // version of the PROXY protocol; 0: none
	Source netip.Addr     // not valid: any
}

// maxAccept bounds how many networks an entrance names.
const maxAccept = 64

// ParseEntrance reads the URL of an entrance.
func ParseEntrance(text string) (e Entrance, err error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || strings.ContainsAny(text, "\x00\n\r") {
		return e, fmt.Errorf("%q is no URL to listen on: write tcp://:8080, udp://:53 or unix:///run/x.sock", text)
	}
	rest, query, _ := strings.Cut(rest, "?")
	e.Scheme = scheme
	switch scheme {
	case "tcp", "udp":
		err = e.parseAddress(rest)
	case "unix":
		e.Path = rest
		if !filepath.IsAbs(rest) || filepath.Clean(rest) != rest || rest == "/" {
			err = errors.New("write the whole path, as unix:///run/x.sock")
		} else if len(rest) > maxPath {
			err = fmt.Errorf("the path is longer than %d bytes, which is all that a socket can have", maxPath)
		}
	default:
		err = fmt.Errorf("unknown scheme %q: use tcp, udp or unix", scheme)
	}
	if err == nil {
		err = e.parseQuery(query)
	}
	if err != nil {
		return Entrance{}, fmt.Errorf("forward %q: %w", text, err)
	}
	return e, nil
}

const maxPath = 107 // bytes: sun_path without its end (unix(7))

func (e *Entrance) parseAddress(text string) error {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return errors.New("name a port, as tcp://:8080, or :0 for any")
	}
	if host := strings.TrimSuffix(strings.TrimPrefix(text[:i], "["), "]"); host != "" {
		a, err := netip.ParseAddr(host)
		if err != nil || a.Zone() != "" || a.Is6() != strings.HasPrefix(text, "[") {
			return fmt.Errorf("%q is no address of this host: write it as 127.0.0.1 or [::1]; none stands for all", text[:i])
		}
		e.Host = a.Unmap()
	}
	return e.parsePort(text[i+1:])
}

// parsePort reads a port, and whether it may be another.
func (e *Entrance) parsePort(text string) (err error) {
	number, step, next := strings.Cut(text, "+")
	if e.Port, err = parsePort(number); err != nil || !next {
		return err
	}
	n, err := strconv.ParseUint(cmp.Or(step, "1"), 10, 16)
	if err != nil || n == 0 || e.Port == 0 {
		return fmt.Errorf("%q: write 8080+ for the next free port, or 8080+1000 for strides of 1000", text)
	}
	e.Step = int(n)
	return nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || text[0] < '0' {
		return 0, fmt.Errorf("%q is not a port: write a number up to 65535", text)
	}
	return uint16(port), nil
}

func (e *Entrance) parseQuery(text string) error {
	values, err := url.ParseQuery(text)
	if err != nil {
		return err
	}
	for key, all := range values {
		if len(all) != 1 {
			return fmt.Errorf("%s is given more than once: write from=192.168.0.0/16,10.0.0.5", key)
		}
		switch key {
		case "from":
			err = e.parseAccept(all[0])
		case "proxy":
			e.Proxy, err = strconv.Atoi(all[0])
			if err != nil || e.Proxy < 1 || e.Proxy > 2 {
				err = fmt.Errorf("proxy=%s: there are versions 1 and 2", all[0])
			}
		case "source":
			e.Source, err = netip.ParseAddr(all[0])
			if err != nil || e.Source.Zone() != "" || e.Source.IsUnspecified() {
				err = fmt.Errorf("source=%s is no address", all[0])
			}
		default:
			err = fmt.Errorf("unknown option %q: there are from, proxy and source", key)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case e.Proxy != 0 && e.Scheme == "udp":
		return errors.New("with udp there is no header for a connection: leave out proxy")
	case len(e.Accept) > 0 && e.Scheme == "unix":
		return errors.New("who connects to a unix socket has no address: leave out from; the directory says who may")
	}
	return nil
}

func (e *Entrance) parseAccept(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(part)
		if err != nil {
			a, addrErr := netip.ParseAddr(part)
			if addrErr != nil || a.Zone() != "" {
				return fmt.Errorf("from: %q is no network and no address: write 192.168.0.0/16 or 10.0.0.5", part)
			}
			p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		if p != p.Masked() {
			return fmt.Errorf("from: %q has host bits set: write %s", part, p.Masked())
		}
		if e.Accept = append(e.Accept, p); len(e.Accept) > maxAccept {
			return fmt.Errorf("from: more than %d networks: name larger ones", maxAccept)
		}
	}
	return nil
}

// allows tells whether a may come.
func (e *Entrance) allows(a netip.Addr) bool {
	for _, p := range e.Accept {
		if p.Contains(a) {
			return true
		}
	}
	return len(e.Accept) == 0
}

// at returns the entrance at a port that was found.
func (e Entrance) at(port uint16) Entrance {
	e.Port, e.Step = port, 0
	return e
}

// address is what package net listens on.
func (e Entrance) address() string {
	switch {
	case e.Path != "":
		return e.Path
	case e.Host.IsValid():
		return netip.AddrPortFrom(e.Host, e.Port).String()
	}
	return ":" + strconv.Itoa(int(e.Port))
}

// String returns the URL.
func (e Entrance) String() string {
	text := e.Scheme + "://" + e.address()
	switch {
	case e.Step == 1:
		text += "+"
	case e.Step > 1:
		text += "+" + strconv.Itoa(e.Step)
	}
	sep := "?"
	add := func(key, value string) {
		text += sep + key + "=" + value
		sep = "&"
	}
	if len(e.Accept) > 0 {
		all := make([]string, len(e.Accept))
		for i, p := range e.Accept {
			if all[i] = p.String(); p.IsSingleIP() {
				all[i] = p.Addr().String()
			}
		}
		add("from", strings.Join(all, ","))
	}
	if e.Proxy != 0 {
		add("proxy", strconv.Itoa(e.Proxy))
	}
	if e.Source.IsValid() {
		add("source", e.Source.String())
	}
	return text
}

// bare is where it listens, without options: what an operator calls it.
func (e Entrance) bare() string {
	text, _, _ := strings.Cut(e.String(), "?")
	return text
}

// A Target is where a forward leads: a port of a client, or what ParseLocal and ParseRemote read.
type Target struct {
	Name string     // of a device, or of a host
	Addr netip.Addr // where there is no name
	Port uint16
	Path string // of a unix socket, in the place of the others
}

// maxName bounds the name of a device, bytes.
const maxName = 63

// ParseTarget reads a target: 10.0.3.4:80 or cam1:80.
func ParseTarget(text string) (t Target, err error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return t, fmt.Errorf("%q is no port of a client: write 10.0.3.4:80, or the name of a device as cam1:80", text)
	}
	if t.Port, err = parsePort(port); err != nil {
		return t, err
	}
	if t.Port == 0 {
		return t, fmt.Errorf("%q: port 0 is none", text)
	}
	if t.Addr, err = netip.ParseAddr(host); err == nil {
		if t.Addr.Zone() != "" || t.Addr.IsUnspecified() || t.Addr.IsMulticast() {
			return t, fmt.Errorf("%q is no address of a client", text)
		}
		return t, nil
	}
	if len(host) > maxName || strings.ContainsAny(host, "/?%:[]\x00 \t\n\r") {
		return t, fmt.Errorf("%q is neither an address nor the name of a device", host)
	}
	t.Name = host
	return t, nil
}

// String returns what ParseTarget reads, or the URL of a unix socket.
func (t Target) String() string {
	if t.Path != "" {
		return "unix://" + t.Path
	}
	return t.address()
}

// address is what package net dials.
func (t Target) address() string {
	if t.Path != "" {
		return t.Path
	}
	host := t.Name
	if t.Addr.IsValid() {
		host = t.Addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(t.Port)))
}
