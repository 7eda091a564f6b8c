package carrier

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// DefaultPort is the TCP and vsock port of the 2013 protocol.
const DefaultPort = 2002

// AnyCID stands for every context ID of this machine (VMADDR_CID_ANY in linux/vm_sockets.h).
const AnyCID = 0xffffffff

// A kind is what the URLs of a carrier have whose other end is a host.
type kind struct {
	port uint32 // where the URL has none; 0: the port that the caller says
	path string // likewise; empty: the carrier has no path
	bare bool   // it has no ports
	// mtu is the length of the longest packet that goes in one datagram where the path carries 1500 bytes: one that goes in two is
	// lost twice as often. 0: it does not go by datagrams.
	mtu  int
	zone bool // the path is a zone of the DNS, and the host may be left out: zoneURL
}

// DefaultPath is where a gateway's WebSocket is in the names of its HTTP server.
const DefaultPath = "/ferry"

// kinds are the carriers over IP. ws and wss have the ports of WebSocket (RFC 6455, section 3), by which it passes where
// others do not; SSH's own port has a server already, as a rule.
//
// Of 1500 bytes the library of QUIC finds at least 1431 for its packets, which have 1394 for a datagram: for a number frame (12) and a packet; with connect-ip
// also for what package datagram (32) and HTTP/3 (3) add.
var kinds = map[string]kind{
	"tcp":  {},
	"udp":  {mtu: 1400},
	"dns":  {port: 53, zone: true, mtu: 1400},
	"quic": {mtu: 1380},
	"icmp": {bare: true, mtu: 1400},
	"ssh":  {port: 2022},
	"ws":   {port: 80, path: DefaultPath},
	"wss":  {port: 443, path: DefaultPath},

	"connect-ip":    {port: 443, mtu: 1346},
	"connect-ip+h1": {port: 443},
}

// ByDatagrams tells whether packets that come by the carrier of a URL have to fit into datagrams, which may get lost.
func ByDatagrams(url string) bool { return MTU(url) > 0 }

// MTU returns the length of the longest packet that the carrier of a URL has in one datagram on a path of 1500 bytes; 0: any.
func MTU(url string) int {
	scheme, _, _ := strings.Cut(url, ":")
	return kinds[scheme].mtu
}

// Names returns all that a URL can begin with.
func Names() []string { return append(slices.Sorted(maps.Keys(kinds)), "unix", "vsock") }

// Schemes returns them as a text for people.
func Schemes() string {
	all := Names()
	last := len(all) - 1
	return strings.Join(all[:last], ", ") + " or " + all[last]
}

// An Endpoint is a parsed URL of a carrier: where to listen or whom to dial.
type Endpoint struct {
	Scheme string // one of Names
	Host   string // over IP: name or address; empty: all of this machine (listening), the resolvers that it has (dns)
	// At is where Host is, if that is known: it is connected to without a question to a name server. It is no part of the URL.
	At   netip.Addr
	Port uint32 // all but unix and icmp
	CID  uint32 // vsock; AnyCID when the URL has none
	Path string // unix, ws, wss; dns: the zone, behind a slash
	// HybridPort is the guest's vsock port behind a hypervisor's unix socket; 0: a plain socket.
	HybridPort uint32
}

// OverIP tells whether the other end is a host.
func (e Endpoint) OverIP() bool {
	_, ok := kinds[e.Scheme]
	return ok
}

// Target returns what to connect to, over IP: a host and a port.
func (e Endpoint) Target() string {
	host := e.Host
	if e.At.IsValid() {
		host = e.At.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(e.Port)))
}

// ParseDial reads whom to dial: a URL as ParseListen takes, unix:///path?vsock=port, or a plain host
// name or address with an optional port. port is used where s has none and the carrier has no port of its own; 0
// means DefaultPort.
func ParseDial(s string, port int) (Endpoint, error) {
	if port == 0 {
		port = DefaultPort
	}
	if !strings.Contains(s, "://") {
		s = "tcp://" + bracketed(s)
	}
	e, err := parse(s, uint32(port))
	switch {
	case err != nil:
		return e, err
	case e.OverIP() && e.Host == "" && !kinds[e.Scheme].zone:
		e.Host = "192.168.0.1"
		return e, fmt.Errorf("%q names no host: write for example %s", s, e)
	case e.Scheme == "vsock" && e.CID == AnyCID:
		return e, fmt.Errorf("%q names no context ID: write vsock://2:%d for the host of this machine", s, port)
	}
	return e, nil
}

// bracketed puts a bare IPv6 address into brackets, as a URL wants it.
func bracketed(s string) string {
	if ip, _, _ := strings.Cut(s, "%"); net.ParseIP(ip) != nil && strings.Contains(ip, ":") {
		return "[" + strings.Replace(s, "%", "%25", 1) + "]"
	}
	return s
}

func parse(s string, defaultPort uint32) (Endpoint, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%q is not a URL: %w", s, err)
	}
	if u.Scheme == "unix" {
		return parseUnix(s, u)
	}
	k, overIP := kinds[u.Scheme]
	if !overIP && u.Scheme != "vsock" {
		return Endpoint{}, fmt.Errorf("%q: unknown carrier %q: use %s", s, u.Scheme, Schemes())
	}
	e := Endpoint{Scheme: u.Scheme, Port: defaultPort}
	if k.port != 0 || k.bare {
		e.Port = k.port
	}
	if p := u.Port(); p != "" {
		if k.bare {
			return e, fmt.Errorf("%q: %s has no ports: write %s://%s", s, u.Scheme, u.Scheme, u.Hostname())
		}
		if e.Port, err = portNumber(p, u.Scheme); err != nil {
			return e, fmt.Errorf("%q: %w", s, err)
		}
	}
	switch {
	case u.RawQuery != "" || u.ForceQuery || u.User != nil || u.Fragment != "",
		k.path == "" && !k.zone && u.Path != "" && u.Path != "/":
		return e, fmt.Errorf("%q: only a host and a port are expected after %s://", s, u.Scheme)
	case k.zone:
		return parseZoneURL(s, u, e)
	case k.path != "" && u.Path == "":
		e.Path = k.path
	case k.path != "":
		e.Path = u.Path
	}
	if overIP {
		e.Host = u.Hostname()
		return e, checkHost(s, e.Host)
	}
	e.CID, err = parseCID(s, u.Hostname())
	return e, err
}

// MaxZone is the length of the longest name of a zone: what it takes of a name is missing for data.
const MaxZone = 80

// parseZoneURL reads dns://zone, or dns://host/zone (RFC 4501, section 3, with one word for where no host is).
func parseZoneURL(s string, u *url.URL, e Endpoint) (Endpoint, error) {
	zone := strings.TrimPrefix(u.Path, "/")
	if u.Path == "" {
		zone = u.Hostname()
	} else {
		e.Host = u.Hostname()
	}
	zone = strings.ToLower(strings.TrimSuffix(zone, "."))
	if !isZone(zone) {
		return e, fmt.Errorf("%q names no zone of the DNS: write for example dns://t.example.org, or dns://192.0.2.1/t.example.org for a certain resolver", s)
	}
	e.Path = "/" + zone
	return e, checkHost(s, e.Host)
}

// isZone: at least two labels, for nobody has a top-level domain for a tunnel, and no address.
func isZone(zone string) bool {
	if _, err := netip.ParseAddr(zone); err == nil || len(zone) > MaxZone || !strings.Contains(zone, ".") {
		return false
	}
	for label := range strings.SplitSeq(zone, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func parseCID(s, host string) (uint32, error) {
	if host == "" {
		return AnyCID, nil
	}
	cid, err := strconv.ParseUint(host, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q: %q is not a context ID: a number is expected", s, host)
	}
	return uint32(cid), nil
}

func checkHost(s, host string) error {
	name := host
	if a, err := netip.ParseAddr(host); err == nil {
		name = a.Zone()
	}
	if strings.ContainsFunc(name, notInName) {
		return fmt.Errorf("%q: %q is neither a name nor an address", s, host)
	}
	return nil
}

// notInName: names of hosts have letters, digits and marks of any language (RFC 5890), dots and hyphens.
func notInName(r rune) bool {
	return !unicode.In(r, unicode.Letter, unicode.Digit, unicode.Mark) && !strings.ContainsRune(".-_", r)
}

func parseUnix(s string, u *url.URL) (Endpoint, error) {
	e := Endpoint{Scheme: "unix", Path: u.Path}
	if u.Host != "" || u.Path == "" {
		return e, fmt.Errorf("%q: write an absolute path, as in unix:///run/vm.sock", s)
	}
	q := u.Query()
	if v := q.Get("vsock"); v != "" {
		port, err := strconv.ParseUint(v, 10, 32)
		if err != nil || port == 0 {
			return e, fmt.Errorf("%q: %q is not a vsock port", s, v)
		}
		e.HybridPort = uint32(port)
		q.Del("vsock")
	}
	for key := range q {
		return e, fmt.Errorf("%q: unknown parameter %q: only 'vsock' is known", s, key)
	}
	return e, nil
}

// portNumber checks the range: 16 bits over IP, 32 for vsock.
func portNumber(p, scheme string) (uint32, error) {
	bits := 16
	if scheme == "vsock" {
		bits = 32
	}
	n, err := strconv.ParseUint(p, 10, bits)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port", p)
	}
	return uint32(n), nil
}

// String returns the URL of the endpoint.
func (e Endpoint) String() string {
	u := url.URL{Scheme: e.Scheme}
	switch {
	case kinds[e.Scheme].bare:
		return e.Scheme + "://" + bracketed(e.Host)
	case kinds[e.Scheme].zone && e.Host == "":
		u.Host = strings.TrimPrefix(e.Path, "/")
		if e.Port != kinds[e.Scheme].port {
			u.Host += fmt.Sprintf(":%d", e.Port)
		}
	case e.OverIP():
		u.Host, u.Path = net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))), e.Path
	case e.Scheme == "unix":
		u.Path = e.Path
		if e.HybridPort != 0 {
			u.RawQuery = fmt.Sprintf("vsock=%d", e.HybridPort)
		}
	case e.CID == AnyCID:
		u.Host = fmt.Sprintf(":%d", e.Port)
	default:
		u.Host = fmt.Sprintf("%d:%d", e.CID, e.Port)
	}
	return u.String()
}
