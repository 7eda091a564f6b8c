package publish

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of the files that say what is published.
const (
	BridgesFile   = "vpn_bridges.csv" // Penguin's, of six columns
	EndpointsFile = "endpoints.txt"   // Penguin's, for people
	FeedFile      = "endpoints.json"  // Feed
)

// Files are the names of all.
func Files() []string { return []string{BridgesFile, EndpointsFile, FeedFile} }

// A Published is a Bridge with its port.
type Published struct {
	Bridge
	Host       netip.AddrPort // unspecified address: all of the host's
	ClientName string         // as the gateway knows it; empty: it has none
	Why        string         // see Ports.Why
	Since      time.Time
}

// Feed is what FeedFile has. Fields may be added, and none is taken away, while Version is 1.
type Feed struct {
	Version   int        `json:"version"`
	Endpoints []Endpoint `json:"endpoints"`
}

// An Endpoint is one published service.
type Endpoint struct {
	Protocol   string     `json:"protocol"`  // tcp or udp
	Host       netip.Addr `json:"host"`      // of the gateway, where the port is; 0.0.0.0 or ::, all
	HostPort   uint16     `json:"host_port"` // there
	Client     netip.Addr `json:"client"`    // in the tunnel
	ClientPort uint16     `json:"client_port"`
	ClientName string     `json:"client_name,omitempty"`
	GuestIP    netip.Addr `json:"guest_ip"` // to which the service is bound
	GuestPort  uint16     `json:"guest_port"`
	Name       string     `json:"name,omitempty"` // of the program, as the client says
	Reason     string     `json:"reason,omitempty"`
	Since      time.Time  `json:"since"`
}

// Endpoint returns what the feed has of p.
func (p Published) Endpoint() Endpoint {
	return Endpoint{
		p.Protocol(), p.Host.Addr(), p.Host.Port(), p.Client, p.At, p.ClientName, p.Guest.Addr(), p.Guest.Port(), p.Name, p.Why, p.Since.UTC().Truncate(time.Second),
	}
}

// Sort brings all into the order of the files: by protocol, port of the host.
func Sort(all []Published) {
	slices.SortFunc(all, func(a, b Published) int {
		return cmp.Or(cmp.Compare(a.Protocol(), b.Protocol()), cmp.Compare(a.Host.Port(), b.Host.Port()), a.Client.Compare(b.Client), a.Guest.Compare(b.Guest))
	})
}

// Encode returns the contents of a file.
func Encode(file string, all []Published) ([]byte, error) {
	switch file {
	case BridgesFile:
		return bridges(all)
	case EndpointsFile:
		return endpoints(all), nil
	case FeedFile:
		return feed(all)
	}
	return nil, fmt.Errorf("publish: no file is called %s", file)
}

// bridges are lines of CSV (RFC 4180, but for the ends of lines). What a guest calls its programs is quoted.
func bridges(all []Published) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{{"procname", "ipvn", "domain", "guest_ip", "guest_port", "host_port"}}
	for _, p := range all {
		ipvn, addr := "ipv4", p.Guest.Addr().String()
		if p.Guest.Addr().Is6() {
			ipvn, addr = "ipv6", "["+addr+"]"
		}
		rows = append(rows, []string{nameOf(p), ipvn, p.Protocol(), addr, strconv.Itoa(int(p.Guest.Port())), strconv.Itoa(int(p.Host.Port()))})
	}
	err := w.WriteAll(rows)
	return b.Bytes(), err
}

// nameOf is never empty: readers of the files split lines.
func nameOf(p Published) string { return cmp.Or(p.Name, "unknown") }

// endpoints are sorted lines: tcp 127.0.0.1:28080 -> 192.168.0.1:80 (httpd).
func endpoints(all []Published) []byte {
	lines := make([]string, len(all))
	for i, p := range all {
		host := p.Host
		switch host.Addr() {
		case netip.IPv4Unspecified():
			host = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), host.Port())
		case netip.IPv6Unspecified():
			host = netip.AddrPortFrom(netip.IPv6Loopback(), host.Port())
		}
		lines[i] = fmt.Sprintf("%s %s -> %s (%s)\n", p.Protocol(), host, p.Guest, nameOf(p))
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

func feed(all []Published) ([]byte, error) {
	f := Feed{1, make([]Endpoint, len(all))}
	for i, p := range all {
		f.Endpoints[i] = p.Endpoint()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(f)
	return b.Bytes(), err
}
