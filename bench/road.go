package main

import (
	"errors"
	"fmt"

	"ferry/test/lab"
	"ferry/test/wire"
)

const wayIs = "delay 10ms, rate 50mbit" // each way, each direction

// flowKey is one direction of a connection, for nft.
const flowKey = "ip saddr . th sport . ip daddr . th dport"

// A road leads from c1 to the gateway by two ways, of which the first one is preferred:
//
//	c1                                     r                                  gw
//	eth0 192.168.7.2  ====wire====  eth0 192.168.7.1
//	                                              gw0 192.168.101.254 --- eth1 192.168.101.1
//	eth1 192.168.8.2  ====wire====  eth1 192.168.8.1
type road struct {
	network
	r    *lab.Namespace
	ways [2]*wire.Wire
}

func newRoad() (*road, error) {
	r := &road{}
	for _, ns := range []struct {
		name string
		to   **lab.Namespace
	}{{"gw", &r.gw}, {"c1", &r.c1}, {"r", &r.r}} {
		made, err := lab.NewNamespace(ns.name)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		*ns.to = made
	}
	err := errors.Join(
		lab.Join(r.r, "gw0", "192.168.101.254/24", r.gw, "eth1", bareGateway+"/24"),
		runs(r.gw, "ip route add 192.168.0.0/16 via 192.168.101.254"),
		runs(r.r, "sysctl -qw net.ipv4.ip_forward=1"),
		// What passes is written down, for forsake.
		runs(r.r, "nft add table ip road"),
		runs(r.r, "nft add set ip road seen { type ipv4_addr . inet_service . ipv4_addr . inet_service ; flags dynamic ; }"),
		runs(r.r, "nft add chain ip road pass { type filter hook forward priority 0 ; }"),
		runs(r.r, "nft add rule ip road pass meta l4proto { tcp, udp } add @seen { "+flowKey+" }"),
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
	name := fmt.Sprintf("eth%d", i)
	if r.ways[i], err = wire.New(wire.End{In: r.c1.Do, Name: name}, wire.End{In: r.r.Do, Name: name}, uint64(i), wayIs); err != nil {
		return err
	}
	return errors.Join(
		runs(r.r, fmt.Sprintf("ip address add 192.168.%d.1/24 dev %s", 7+i, name)),
		runs(r.r, "ip link set "+name+" up"),
		runs(r.c1, "ip link set "+name+" up"),
		r.address(i, 2),
	)
}

// address gives the client an address on a way, and the route over it.
func (r *road) address(way, host int) error {
	return errors.Join(
		runs(r.c1, fmt.Sprintf("ip address add 192.168.%d.%d/24 dev eth%d", 7+way, host, way)),
		runs(r.c1, fmt.Sprintf("ip route add 192.168.101.0/24 via 192.168.%d.1 dev eth%d metric %d", 7+way, way, 100+way)),
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
	if r.r != nil {
		err = errors.Join(err, r.r.Close())
	}
	return err
}

// reset ends the gateway's connection, as a middlebox may.
func (r *road) reset(c *contender) error { return runs(r.gw, fmt.Sprintf("ss -K sport = %d", c.port)) }

// forsake drops the packets of all connections that there are, and lets new ones pass.
func (r *road) forsake(*contender) error {
	return errors.Join(
		runs(r.r, "nft flush chain ip road pass"),
		runs(r.r, "nft add rule ip road pass meta l4proto { tcp, udp } "+flowKey+" @seen drop"),
	)
}

// drop drops all IP packets on the first way, and pass ends that.
func (r *road) drop(*contender) error { return r.ways[0].Set("drop ip") }

func (r *road) pass() error { return r.ways[0].Set("pass") }

// shrink drops large packets on the first way, without a word.
func (r *road) shrink(*contender) error { return r.ways[0].Set("mtu 600") }

// renumber replaces the client's address on the first way, as DHCP may.
func (r *road) renumber(*contender) error {
	return errors.Join(runs(r.c1, "ip address del 192.168.7.2/24 dev eth0"), r.address(0, 77))
}

// pull takes the carrier of the first way, and its address, as what manages a network does then.
func (r *road) pull(*contender) error {
	return errors.Join(r.ways[0].Set("unplug"), runs(r.c1, "ip address del 192.168.7.2/24 dev eth0"))
}
