//go:build !minimal

package hostdns

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	withResolved = true
	busTime      = 5 * time.Second // for one conversation with systemd-resolved
)

// server and domain are as org.freedesktop.resolve1(5) has them: a(iay) and a(sb).
type server struct {
	Family int32
	Addr   []byte
}

type domain struct {
	Name      string
	RouteOnly bool // no search domain
}

// setResolved gives a link servers and domains.
func setResolved(bus string, index int, s State) error {
	servers := make([]server, 0, len(s.Servers))
	for _, a := range s.Servers {
		family := int32(2) // AF_INET
		if a.Is6() {
			family = 10
		}
		servers = append(servers, server{family, a.AsSlice()})
	}
	domains := make([]domain, 0, len(s.Domains)+1)
	for _, d := range s.Domains {
		domains = append(domains, domain{d, false})
	}
	if s.All { // whatever other links' servers would like to answer
		domains = append(domains, domain{".", true})
	}
	return resolved(bus, func(call func(method string, args ...any) error) error {
		if err := call("SetLinkDNS", int32(index), servers); err != nil {
			return err
		}
		if err := call("SetLinkDomains", int32(index), domains); err != nil {
			return err
		}
		return call("SetLinkDefaultRoute", int32(index), s.All)
	})
}

// revertResolved takes back what setResolved did.
func revertResolved(bus string, index int) error {
	return resolved(bus, func(call func(string, ...any) error) error { return call("RevertLink", int32(index)) })
}

// resolved connects to the system bus for as long as f runs.
func resolved(bus string, f func(call func(method string, args ...any) error) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTime)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", bus)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return err
	}
	conn, err := dbus.DialUnix(raw.(*net.UnixConn))
	if err != nil {
		_ = raw.Close()
		return err
	}
	defer conn.Close()
	if err := conn.Auth(nil); err != nil {
		return fmt.Errorf("system bus: %w", err)
	}
	if err := conn.Hello(); err != nil {
		return fmt.Errorf("system bus: %w", err)
	}
	manager := conn.Object("org.freedesktop.resolve1", "/org/freedesktop/resolve1")
	return f(func(method string, args ...any) error {
		// It is not started for this: resolv.conf leads to one that runs, or to nobody.
		err := manager.CallWithContext(ctx, "org.freedesktop.resolve1.Manager."+method, dbus.FlagNoAutoStart, args...).Err
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		return nil
	})
}
