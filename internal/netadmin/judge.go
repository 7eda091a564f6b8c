package netadmin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"ferry/internal/hostnet"
	"ferry/internal/policy"
)

// judge says why a state must not be applied. The client has judged what its peer has sent; this is for a
// client that is not its owner's any more.
func (r Rules) judge(s hostnet.State) error {
	if s.MTU != 0 && policy.MTU(s.MTU) != "" {
		return fmt.Errorf("MTU %d: %s", s.MTU, policy.MTU(s.MTU))
	}
	for _, echo := range []uint32{s.Pings, s.Outer.Pings} {
		if echo != 0 && echo != r.Echo {
			return fmt.Errorf("echoes that begin with %08x are not those of this program, which begin with %08x", echo, r.Echo)
		}
	}
	if r.Policy == nil {
		return r.judgeGateway(s)
	}
	return r.judgeDevice(s)
}

func (r Rules) judgeGateway(s hostnet.State) error {
	switch {
	case s.Addr != r.Addr:
		return fmt.Errorf("address %s is not that of this gateway, %s", s.Addr, r.Addr)
	case s.Outer.Mark != 0 || s.Outer.Table != 0 || s.Outer.Pings != 0 || len(s.DNS)+len(s.Domains) > 0 || s.LocalNets || s.Guard:
		return errors.New("this is not what a gateway needs")
	}
	for _, route := range s.Routes {
		if why := policy.Route(route, s.Addr, netip.Addr{}); why != "" && !slices.Contains(r.Routes, route) {
			return fmt.Errorf("route %s: %s", route, why)
		}
	}
	return nil
}

func (r Rules) judgeDevice(s hostnet.State) error {
	switch {
	case s.Outer.Mark != r.Mark || s.Outer.Table != r.Table:
		return fmt.Errorf("mark %d and table %d are not those of this client, %d and %d", s.Outer.Mark, s.Outer.Table, r.Mark, r.Table)
	case s.Masquerade:
		return errors.New("a device does not masquerade")
	case s.Pings != 0:
		return errors.New("a device answers no pings of others")
	case s.Full() && !r.Policy.DefaultRoute:
		return errors.New("a full tunnel is not what the owner of this device wants")
	case len(s.DNS) > 0 && r.Policy.RefuseDNS:
		return errors.New("name servers are not what the owner of this device wants")
	case !s.Addr.IsValid() && s.Full() && len(s.Routes) == 1 && len(s.DNS) == 0:
		return nil // closed, before there is a tunnel
	}
	accept := r.Policy.Accept
	if len(accept) == 0 {
		accept = policy.DefaultAccept
	}
	if why := policy.Address(s.Addr, accept); why != "" {
		return fmt.Errorf("address %s: %s", s.Addr, why)
	}
	for _, route := range s.Routes {
		own := slices.Contains(r.Policy.Routes, route) || route.Bits() == 0 || route.IsSingleIP() && slices.Contains(s.DNS, route.Addr())
		if own {
			continue
		}
		if why := policy.Route(route, s.Addr, netip.Addr{}); why != "" || r.Policy.RefuseRoutes {
			return fmt.Errorf("route %s: not the owner's, and %s", route, why)
		}
	}
	for _, server := range s.DNS {
		if why := policy.NameServer(server, s.Addr, s.Routes); why != "" {
			return fmt.Errorf("name server %s: %s", server, why)
		}
	}
	for _, domain := range s.Domains {
		if why := policy.Domain(domain); why != "" {
			return fmt.Errorf("domain %q: %s", domain, why)
		}
	}
	return nil
}
