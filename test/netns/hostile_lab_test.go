package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ferry/test/lab"
	"ferry/test/wire"
)

// Addresses of a hostile network.
const (
	hostileGateway = "203.0.113.10"
	hostileISP     = "198.51.100.53" // name server and proxies
	homeOne        = "100.64.1.2"    // what c looks like by the router of its cable
	homeTwo        = "100.64.2.2"    // by that of its Wi-Fi
	homeAddr       = "192.168.7.2"   // c, by cable
	otherAddr      = "192.168.7.77"
	tunnelZone     = "t.example" // whose names the resolver asks the gateway for
	httpPort       = 3128
	httpAuthPort   = 3129 // of a proxy that wants proxyUser
	socksPort      = 1080
	proxyUser      = "user:secret"
)

// A hostile network is one that a client on its way meets. Its first way has all the faults, and both have NAT:
//
//	  c                              r1
//	eth0 192.168.7.2  ==cable==  lan0 192.168.7.1
//	                             wan0 100.64.1.2  ---+               gw
//	                                                 |   +--- 203.0.113.10
//	                                                net--+
//	                                                 |   +--- 198.51.100.53
//	                                 r2              |               isp   resolver, HTTP and SOCKS5 proxies
//	                             wan0 100.64.2.2  ---+
//	eth1 192.168.8.2  ==wifi===  lan0 192.168.8.1
//
// cable and wifi are wires (test/wire); c prefers the cable by the metric of its route.
//
// Each method that makes it hostile returns what takes that back.
type hostile struct {
	network             // of which only gw, its state and what starts vpnsrv are used
	c, r1, r2, net, isp *lab.Namespace
	cable, wifi         *wire.Wire
	mappings            int // how often the router has forgotten them
	filters             int // how many tables of them were made
}

func newHostile(t *testing.T) *hostile {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		unable(t, err)
	}
	h := &hostile{network: network{t: t, state: filepath.Join(t.TempDir(), "state")}}
	for _, ns := range []struct {
		name string
		to   **lab.Namespace
	}{{"c", &h.c}, {"r1", &h.r1}, {"r2", &h.r2}, {"net", &h.net}, {"isp", &h.isp}, {"gw", &h.gw}} {
		made, err := lab.NewNamespace(fmt.Sprintf("%s-%d", ns.name, os.Getpid()))
		if err != nil {
			unable(t, err)
		}
		t.Cleanup(func() { _ = made.Close() })
		run(t, made, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
		*ns.to = made
	}
	join(t, h.net, "eth1", "100.64.1.1/24", h.r1, "wan0", homeOne+"/24")
	join(t, h.net, "eth2", "100.64.2.1/24", h.r2, "wan0", homeTwo+"/24")
	join(t, h.net, "eth3", "203.0.113.1/24", h.gw, "eth0", hostileGateway+"/24")
	join(t, h.net, "eth4", "198.51.100.1/24", h.isp, "eth0", hostileISP+"/24")
	run(t, h.gw, "ip route add default via 203.0.113.1")
	run(t, h.isp, "ip route add default via 198.51.100.1")
	run(t, h.r1, "ip route add default via 100.64.1.1")
	run(t, h.r2, "ip route add default via 100.64.2.1")
	h.cable = h.uplink("eth0", h.r1, "192.168.7", 100)
	h.wifi = h.uplink("eth1", h.r2, "192.168.8", 600)
	h.masquerade(h.r1, 20000)
	h.masquerade(h.r2, 20000)
	return h
}

// uplink joins the client with a router by a wire.
func (h *hostile) uplink(name string, router *lab.Namespace, net string, metric int) *wire.Wire {
	h.t.Helper()
	w, err := wire.New(wire.End{In: h.c.Do, Name: name}, wire.End{In: router.Do, Name: "lan0"}, 1, "")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = w.Close() })
	run(h.t, h.c, fmt.Sprintf("ip address add %s.2/24 dev %s", net, name))
	run(h.t, router, fmt.Sprintf("ip address add %s.1/24 dev lan0", net))
	run(h.t, h.c, fmt.Sprintf("ip link set %s up", name))
	run(h.t, router, "ip link set lan0 up")
	run(h.t, h.c, fmt.Sprintf("ip route add default via %s.1 dev %s metric %d", net, name, metric))
	return w
}

// masquerade maps what goes out of a router to 10,000 ports from the first one on.
func (h *hostile) masquerade(router *lab.Namespace, first int) {
	h.t.Helper()
	_, _ = router.Run("nft delete table ip home") // none the first time
	run(h.t, router, "nft add table ip home")
	run(h.t, router, "nft add chain ip home out { type nat hook postrouting priority 100 ; }")
	for _, protocol := range []string{"tcp", "udp", "icmp"} {
		to := fmt.Sprintf("to :%d-%d", first, first+9999)
		if protocol == "icmp" {
			to = ""
		}
		run(h.t, router, fmt.Sprintf("nft add rule ip home out oifname wan0 ip protocol %s masquerade %s", protocol, to))
	}
}

// set changes the cable, and what is to be set when that ends.
func (h *hostile) set(does, undoes string) (undo func()) {
	h.t.Helper()
	if err := h.cable.Set(does); err != nil {
		h.t.Fatal(err)
	}
	return func() {
		h.t.Helper()
		if err := h.cable.Set(undoes); err != nil {
			h.t.Fatal(err)
		}
	}
}

// filter lets the router of the cable pass only what rules say, or all but.
func (h *hostile) filter(rules ...string) (undo func()) {
	h.t.Helper()
	h.filters++
	table := fmt.Sprintf("inet hostile%d", h.filters)
	run(h.t, h.r1, "nft add table "+table)
	run(h.t, h.r1, fmt.Sprintf("nft add chain %s pass { type filter hook forward priority 0 ; }", table))
	for _, rule := range rules {
		run(h.t, h.r1, fmt.Sprintf("nft add rule %s pass %s", table, rule))
	}
	return func() { h.t.Helper(); run(h.t, h.r1, "nft delete table "+table) }
}

// accept is both directions of what clients send to a port, of one address or of any.
func accept(to, protocol string, port int) []string {
	var there, back string
	if to != "" {
		there, back = "ip daddr "+to+" ", "ip saddr "+to+" "
	}
	return []string{
		fmt.Sprintf("%s%s dport %d accept", there, protocol, port),
		fmt.Sprintf("%s%s sport %d accept", back, protocol, port),
	}
}

// nothingBut drops all but what was accepted.
func nothingBut(accepted ...[]string) (rules []string) {
	for _, a := range accepted {
		rules = append(rules, a...)
	}
	return append(rules, "drop")
}

func resolverRules() []string {
	return append(accept(hostileISP, "udp", 53), accept(hostileISP, "tcp", 53)...)
}

// dropUDP drops UDP, but not questions to the resolver.
func (h *hostile) dropUDP() (undo func()) {
	return h.filter(append(resolverRules(), "meta l4proto udp drop")...)
}

// onlyPort443 lets TCP to port 443 pass, and questions to the resolver.
func (h *hostile) onlyPort443() (undo func()) {
	return h.filter(nothingBut(resolverRules(), accept("", "tcp", 443))...)
}

// onlyDNSThroughResolver lets questions to the resolver pass, as hotels do before one has paid.
func (h *hostile) onlyDNSThroughResolver() (undo func()) {
	return h.filter(nothingBut(resolverRules())...)
}

// onlyHTTPProxy lets nothing pass but to the HTTP proxies.
func (h *hostile) onlyHTTPProxy() (undo func()) {
	return h.filter(nothingBut(accept(hostileISP, "tcp", httpPort), accept(hostileISP, "tcp", httpAuthPort))...)
}

// onlySOCKSProxy lets nothing pass but to the SOCKS5 proxy.
func (h *hostile) onlySOCKSProxy() (undo func()) {
	return h.filter(nothingBut(accept(hostileISP, "tcp", socksPort))...)
}

// resetAfterClientHello answers the first bytes of TLS with a reset, whatever the port. The gateway hears nothing more.
func (h *hostile) resetAfterClientHello() (undo func()) {
	// Byte 0 of the stream is a handshake record, byte 5 a ClientHello: RFC 8446, 4 and 5.1.
	return h.filter("meta l4proto tcp @ih,0,16 0x1603 @ih,40,8 1 reject with tcp reset")
}

// dropLargerThan drops larger packets on the cable, without a word.
func (h *hostile) dropLargerThan(mtu int) (undo func()) {
	return h.set(fmt.Sprintf("mtu %d", mtu), "mtu 0")
}

// rate is what the cable carries each way.
func (h *hostile) rate(mbit int) (undo func()) {
	return h.set(fmt.Sprintf("rate %dmbit", mbit), "rate 0")
}

// loss loses a share of the packets each way, and makes round trips longer.
func (h *hostile) loss(percent float64, rtt time.Duration) (undo func()) {
	return h.set(fmt.Sprintf("loss %g%%, delay %s", percent, rtt/2), "loss 0%, delay 0s")
}

// blackhole drops all packets without a word; the router still answers ARP.
func (h *hostile) blackhole() (undo func()) { return h.set("drop ip", "pass") }

// addressChange gives the client another address in the same network, as DHCP may.
func (h *hostile) addressChange() (undo func()) {
	move := func(from, to string) {
		h.t.Helper()
		run(h.t, h.c, fmt.Sprintf("ip address del %s/24 dev eth0", from)) // and with it the routes
		run(h.t, h.c, fmt.Sprintf("ip address add %s/24 dev eth0", to))
		run(h.t, h.c, "ip route add default via 192.168.7.1 dev eth0 metric 100")
	}
	move(homeAddr, otherAddr)
	return func() { h.t.Helper(); move(otherAddr, homeAddr) }
}

// interfaceChange pulls the cable: the carrier is gone, and what manages the network takes the address away, and with
// it the route, so the Wi-Fi is what is left.
func (h *hostile) interfaceChange() (undo func()) {
	plug := h.set("unplug", "plug")
	run(h.t, h.c, fmt.Sprintf("ip address del %s/24 dev eth0", homeAddr))
	return func() {
		h.t.Helper()
		plug()
		run(h.t, h.c, fmt.Sprintf("ip address add %s/24 dev eth0", homeAddr))
		run(h.t, h.c, "ip route add default via 192.168.7.1 dev eth0 metric 100")
	}
}

// natRebinding makes the router forget its mappings, and map to other ports from then on, as one that was restarted.
func (h *hostile) natRebinding() (undo func()) {
	forget := func() {
		h.t.Helper()
		h.mappings++
		h.masquerade(h.r1, 20000+h.mappings%2*20000)
		run(h.t, h.r1, "conntrack -F")
	}
	forget()
	return forget
}
