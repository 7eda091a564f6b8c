package client

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ferry/internal/carrier"
	"ferry/internal/failover"
)

// A way is an endpoint that may be the gateway.
type way struct {
	endpoint carrier.Endpoint
	name     string
}

// endpoints returns the ways that a configuration names.
func endpoints(urls []string, port int) (all []carrier.Endpoint, err error) {
	for _, url := range urls {
		e, err := carrier.ParseDial(url, port)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	if len(all) == 0 {
		return nil, errors.New("no gateway is named")
	}
	return all, nil
}

// usable are those of all by which c may reach its gateway.
func usable(c *Config, all []carrier.Endpoint) (some []carrier.Endpoint, err error) {
	for _, e := range all {
		switch {
		case len(c.Carriers) > 0 && !slices.Contains(c.Carriers, e.Scheme):
		case c.Key.IsZero() && !carriers[e.Scheme].plain:
			err = fmt.Errorf("%s: nobody comes by %s without a key: 'vpncli join' with an invitation of the gateway makes one", e, e.Scheme)
		case carriers[e.Scheme].dial == nil:
			err = fmt.Errorf("%s: this vpncli was built without the carrier %s", e, e.Scheme)
		case !slices.Contains(some, e):
			some = append(some, e)
		}
	}
	if len(some) > 0 {
		return some, nil
	}
	if err == nil {
		err = fmt.Errorf("the gateway is named by none of the carriers that may be used: %s", strings.Join(c.Carriers, ", "))
	}
	return nil, err
}

// resolverPort is where name servers are.
const resolverPort = 53

// on returns the endpoints of a gateway that is at host, which says that it has these carriers. What is not understood is
// left out: it may be a later version. A zone of the DNS is found by a resolver, or where the gateway is.
func on(host string, urls []string) (all []carrier.Endpoint) {
	for _, url := range urls {
		if e, err := carrier.ParseDial(url, 0); err == nil && e.Scheme == "dns" {
			there := e
			e.Host, e.Port, there.Host = "", resolverPort, host
			all = append(all, e, there)
			continue
		}
		scheme, rest, _ := strings.Cut(url, "://")
		e, err := carrier.ParseDial(scheme+"://x"+rest, 0)
		if err != nil || !e.OverIP() {
			continue
		}
		e.Host = host
		all = append(all, e)
	}
	return all
}

// learnWays adds the ways by which the gateway says that it can be reached, where x reached it.
func (r *roamer) learnWays(x *connection, urls []string) {
	host := r.ways[x.way].endpoint.Host
	if !r.c.Found || host == "" || r.ways[x.way].endpoint.Scheme == "dns" { // which is that of a resolver
		return
	}
	has := on(host, urls[:min(len(urls), maxWays)])
	r.learned = append(slices.DeleteFunc(r.learned, func(e carrier.Endpoint) bool { return e.Host == host || e.Host == "" }), has...)
	some, _ := usable(&r.c, has)
	for _, e := range some {
		r.addWay(e)
	}
}

// addWay adds a way, unless it is there.
func (r *roamer) addWay(e carrier.Endpoint) {
	if slices.ContainsFunc(r.ways, func(w way) bool { return w.endpoint == e }) || len(r.ways) == maxWays {
		return
	}
	k, name := carriers[e.Scheme], e.String()
	r.m.Add(failover.Way{Name: name, Class: k.class, Datagram: carrier.ByDatagrams(e.Scheme), Polling: k.polling, Full: k.full})
	r.ways = append(r.ways, way{e, name})
}

// maxWays is how many a gateway can make a device know.
const maxWays = 64
