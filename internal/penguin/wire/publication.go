package wire

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Publication is a service of a guest that is to be had on a port of its host. It is a line of the file of events:
//
//	tcp,192.0.2.1:80,0.0.0.0:8080,192.0.2.1:0,wan0
//
// with 3 columns (until 2025-02), 4 (until 2026-06) or 5.
type Publication struct {
	Transport Transport
	Guest     netip.AddrPort // the service
	Host      netip.AddrPort // where it is to be had
	Src       netip.AddrPort // where the guest connects from; not valid: as its kernel chooses
	Iface     string         // by which interface that the guest owns; empty: none
}

// ParsePublication reads a line, without its end.
func ParsePublication(line string) (p Publication, err error) {
	columns := strings.Split(line, ",")
	if len(columns) < 3 {
		return p, fmt.Errorf("%d columns: proto,guest_ip:port,ext_ip:port,src_ip:port,iface are expected", len(columns))
	}
	switch columns[0] {
	case "tcp":
	case "udp":
		p.Transport = UDP
	default:
		return p, fmt.Errorf("%q is neither tcp nor udp", columns[0])
	}
	addrs := []*netip.AddrPort{&p.Guest, &p.Host, &p.Src}
	for i, text := range columns[1:min(4, len(columns))] {
		a, err := netip.ParseAddrPort(text)
		if err != nil || a.Addr().Zone() != "" {
			return p, fmt.Errorf("%q is no address with a port: write it as 192.0.2.1:80 or [::1]:80", text)
		}
		*addrs[i] = a
	}
	if p.Src.IsValid() && p.Src.Addr().Is4() != p.Guest.Addr().Is4() {
		return p, fmt.Errorf("%s and %s are not of one family", p.Guest, p.Src)
	}
	if len(columns) > 4 {
		p.Iface = columns[4]
	}
	return p, nil
}

// Request returns what a host asks of the guest for this service. Interfaces carry TCP only.
func (p Publication) Request() Request {
	return Request{Dst: p.Guest, Transport: p.Transport, Src: p.Src, Routed: p.Transport == TCP && p.Iface != "", Iface: p.Iface}
}
