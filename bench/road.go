package main

import (
	"errors"
	"fmt"
	"strings"

	"ferry/test/lab"
	"ferry/test/wire"
)

const wayIs = "delay 10ms, rate 50mbit" // each way, each direction

// flowKey is one direction of a connection, for nft.
const flowKey = "ip saddr . th sport . ip daddr . th dport"

// A road leads from c1 to the gateway by two ways with NAT, of which the first one is preferred:
//
//	c1                             r1
//	eth0 192.168.7.2 ==wire== lan0 192.168.7.1
//	                               wan0 100.64.1.2 --- n --- 192.168.101.1 eth1 gw
//	                               r2                  |
//	eth1 192.168.8.2 ==wire== lan0 192.168.8.1         |
//	                               wan0 100.64.2.2 ----+
type road struct {
	network
	routers [2]*lab.Namespace
	n       *lab.Namespace
	ways    [2]*wire.Wire
	seed    uint64 // of what happens by chance
}

func newRoad(seed uint64) (*road, error) {
	r := &road{seed: seed}
	for _, ns := range []struct {
		name string
		to   **lab.Namespace
	}{{"gw", &r.gw}, {"c1", &r.c1}, {"n", &r.n}, {"r1", &r.routers[0]}, {"r2", &r.routers[1]}} {
		made, err := lab.NewNamespace(ns.name)
		if err == nil {
			*ns.to = made
			err = made.Cubic()
		}
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	err := errors.Join(
		lab.Join(r.n, "eth3", "192.168.101.254/24", r.gw, "eth1", bareGateway+"/24"),
		runs(r.gw, "ip route add default via 192.168.101.254"),
		runs(r.n, "sysctl -qw net.ipv4.ip_forward=1"),
	)
	for i := range r.ways {
		if err == nil {
			err = r.open(i)
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// open makes a way.
func (r *road) open(i int) (err error) {
	router, dev, wan := r.routers[i], fmt.Sprint("eth", i), fmt.Sprint("100.64.", i+1)
	if r.ways[i], err = wire.New(wire.End{In: r.c1.Do, Name: dev}, wire.End{In: router.Do, Name: "lan0"}, 2*r.seed+uint64(i), wayIs); err != nil {
		return err
	}
	return errors.Join(
		runs(router, "sysctl -qw net.ipv4.ip_forward=1"),
		runs(router, fmt.Sprintf("ip address add 192.168.%d.1/24 dev lan0", 7+i)),
		runs(router, "ip link set lan0 up"),
		lab.Join(r.n, dev, wan+".1/24", router, "wan0", wan+".2/24"),
		runs(router, "ip route add default via "+wan+".1"),
		r.filter(i),
		r.masquerade(i, 20000),
		runs(r.c1, "ip link set "+dev+" up"),
		r.address(i, 2),
	)
}

// filter makes the chain where rules of what is dropped come. What passes is written down, for forsake.
func (r *road) filter(i int) error {
	return errors.Join(
		runs(r.routers[i], "nft add table ip road"),
		runs(r.routers[i], "nft add set ip road seen { type ipv4_addr . inet_service . ipv4_addr . inet_service ; flags dynamic ; }"),
		runs(r.routers[i], "nft add chain ip road pass { type filter hook forward priority 0 ; }"),
		runs(r.routers[i], "nft add rule ip road pass meta l4proto { tcp, udp } add @seen { "+flowKey+" }"),
	)
}

// masquerade maps what goes out of a way to 10,000 ports from the first one on.
func (r *road) masquerade(i, first int) error {
	router := r.routers[i]
	_ = runs(router, "nft delete table ip home") // none the first time
	err := errors.Join(
		runs(router, "nft add table ip home"),
		runs(router, "nft add chain ip home out { type nat hook postrouting priority 100 ; }"),
		runs(router, "nft add rule ip home out oifname wan0 ip protocol icmp masquerade"),
	)
	for _, protocol := range []string{"tcp", "udp"} {
		err = errors.Join(err, runs(router, fmt.Sprintf("nft add rule ip home out oifname wan0 ip protocol %s masquerade to :%d-%d", protocol, first, first+9999)))
	}
	return err
}

// address gives the client an address on a way, and the route over it.
func (r *road) address(way, host int) error {
	return errors.Join(
		runs(r.c1, fmt.Sprintf("ip address add 192.168.%d.%d/24 dev eth%d", 7+way, host, way)),
		runs(r.c1, fmt.Sprintf("ip route add default via 192.168.%d.1 dev eth%d metric %d", 7+way, way, 100+500*way)),
	)
}

// Close lets go of all.
func (r *road) Close() error {
	for _, w := range r.ways {
		if w != nil {
			_ = w.Close()
		}
	}
	err := r.network.Close()
	for _, ns := range []*lab.Namespace{r.n, r.routers[0], r.routers[1]} {
		if ns != nil {
			err = errors.Join(err, ns.Close())
		}
	}
	return err
}

// inside returns the addresses that the client has besides those of the ways.
func (r *road) inside() (string, error) {
	out, err := r.c1.Run("ip -o -4 address show scope global")
	var all []string
	for text := range strings.Lines(out) {
		if words := strings.Fields(text); len(words) > 3 && !strings.HasPrefix(words[3], "192.168.") {
			all = append(all, words[3])
		}
	}
	return strings.Join(all, " "), err
}

// A strike is what happens to a road.
type strike func(*road, *contender) error

// reset ends the gateway's connection, as a middlebox may.
func (r *road) reset(c *contender) error { return runs(r.gw, fmt.Sprintf("ss -K sport = %d", c.port)) }

// forsake drops the packets of all connections that there are, and lets new ones pass.
func (r *road) forsake(*contender) error {
	return errors.Join(
		runs(r.routers[0], "nft flush chain ip road pass"),
		runs(r.routers[0], "nft add rule ip road pass meta l4proto { tcp, udp } "+flowKey+" @seen drop"),
	)
}

// block drops what is sent to a port on the first way, and what comes from there, if it is also so. unblock ends that.
func block(protocol string, port int, also string) strike {
	return func(r *road, _ *contender) error {
		return errors.Join(
			runs(r.routers[0], fmt.Sprintf("nft add rule ip road pass %s dport %d %s drop", protocol, port, also)),
			runs(r.routers[0], fmt.Sprintf("nft add rule ip road pass %s sport %d %s drop", protocol, port, also)),
		)
	}
}

func (r *road) unblock() error { return runs(r.routers[0], "nft flush chain ip road pass") }

// onlyDNS lets nothing pass the first way but what a name server is asked and answers.
func (r *road) onlyDNS() error {
	return errors.Join(
		runs(r.routers[0], "nft add rule ip road pass meta l4proto { tcp, udp } th dport 53 accept"),
		runs(r.routers[0], "nft add rule ip road pass meta l4proto { tcp, udp } th sport 53 accept"),
		runs(r.routers[0], "nft add rule ip road pass drop"),
	)
}

// drop drops all IP packets on the first way, and pass ends that.
func (r *road) drop(*contender) error { return r.ways[0].Set("drop ip") }

func (r *road) pass() error { return r.ways[0].Set("pass") }

// shrink drops large packets on the first way, without a word.
func (r *road) shrink(*contender) error { return r.ways[0].Set(fmt.Sprintf("mtu %d", largest)) }

// largest is what still passes then.
const largest = 1200

// renumber replaces the client's address on the first way, as DHCP may.
func (r *road) renumber(*contender) error {
	return errors.Join(runs(r.c1, "ip address del 192.168.7.2/24 dev eth0"), r.address(0, 77))
}

// pull takes the carrier of the first way, and its address, as what manages a network does then.
func (r *road) pull(*contender) error {
	return errors.Join(r.ways[0].Set("unplug"), runs(r.c1, "ip address del 192.168.7.2/24 dev eth0"))
}

// reroute prefers the second way from now on. The first one stays as it is, with its address.
func (r *road) reroute(*contender) error {
	return runs(r.c1, "ip route add default via 192.168.8.1 dev eth1 metric 50")
}

// rebind lets the NAT of the first way forget what it knew, and map to other ports from then on, as one that was started anew.
func (r *road) rebind(*contender) error {
	return errors.Join(r.masquerade(0, 40000), runs(r.routers[0], "conntrack -F"))
}

// lossy makes the first way a bad one.
func (r *road) lossy(*contender) error { return r.ways[0].Set("loss 1%, delay 25ms") }
