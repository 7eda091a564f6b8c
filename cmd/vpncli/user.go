//go:build !minimal

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/client"
	"ferry/internal/config"
	"ferry/internal/confine"
	"ferry/internal/durable"
	"ferry/internal/forward"
	"ferry/internal/netstack"
	"ferry/internal/proxy"
)

// noRights says what else there is.
func noRights(err error) error {
	return fmt.Errorf("%w; or with --user --socks5 127.0.0.1:1080, which needs neither rights nor an interface", err)
}

// stateDir is where 'join' and its like find this device's key by default, and howToConnect the options with which vpncli does.
func stateDir() string { return config.ClientStateDir() }

func howToConnect(state string) string {
	switch state {
	case client.DefaultStateDir:
		return ""
	case stateDir():
		return " --user --socks5 127.0.0.1:1080"
	}
	return " --state " + state
}

// connectAsUser is connect without rights: nothing of the host is changed.
func connectAsUser(ctx context.Context, keys *config.Client, c client.Config) (err error) {
	if c.SOCKS5 == "" && c.HTTPProxy == "" && len(c.Local)+len(c.Remote) == 0 && c.Publish.IsZero() {
		return &config.UsageError{Err: errors.New("--user: nothing would lead into the tunnel: add --socks5 127.0.0.1:1080, --http-proxy 127.0.0.1:3128, -L, -R or --publish auto")}
	}
	if c.Publish.Names {
		return &config.UsageError{Err: errors.New("--publish: with --user the names of programs are out of reach: leave 'names' out")}
	}
	// Nothing of this host's goes into the tunnel by itself, so nothing that the gateway pushes does harm; its name servers are asked for all names.
	c.TUN, c.Policy.DefaultRoute = userTunnel, true
	local, err := netstack.NewLocal(userTunnel)
	if err != nil {
		return err
	}
	listens := len(c.Local) > 0
	stay := confine.Rules{
		Read: nameFiles(), Families: []int{unix.AF_INET, unix.AF_INET6, unix.AF_VSOCK, unix.AF_UNIX, unix.AF_NETLINK}, Connect: true, Bind: listens || c.SOCKS5 != "" || !c.Key.IsZero(), // for datagrams, too
		Listen: listens, Sockets: socketDirs(c),
	}
	if c.Joined != "" {
		stay.Read, stay.Write = append(stay.Read, c.Joined), []string{c.Joined, c.Ways}
	}
	rights, err := cli.NewRights(keys.Process, stay, c.Log)
	if err != nil {
		return err
	}
	var counts proxy.Counts
	c.Proxies = func() map[string]uint64 {
		all := local.Refused()
		maps.Copy(all, counts.All())
		return all
	}
	group, ctx := errgroup.WithContext(ctx)
	connect := func(ctx context.Context, address string) (proxy.Half, error) {
		h, err := local.Connect(ctx, address)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	for _, p := range []struct {
		flag, at string
		serve    func(net.Listener) error
	}{
		{"socks5", c.SOCKS5, func(l net.Listener) error { return proxy.ServeSOCKS(ctx, l, connect, local.Dial, &counts, c.Log) }},
		{"http-proxy", c.HTTPProxy, func(l net.Listener) error { return proxy.ServeHTTP(ctx, l, connect, local.Dial, &counts, c.Log) }},
	} {
		if p.at == "" {
			continue
		}
		l, err := net.Listen("tcp", p.at)
		if err != nil {
			return fmt.Errorf("--%s: %w", p.flag, err)
		}
		defer l.Close()
		if at, ok := l.Addr().(*net.TCPAddr); ok && !at.AddrPort().Addr().Unmap().IsLoopback() {
			c.Log.Warn("whoever reaches this proxy is in the tunnel: an address of 127.0.0.1 is for this host alone", "proxy", p.flag, "on", at)
		}
		c.Log.Info("proxy into the tunnel", "proxy", p.flag, "on", l.Addr())
		group.Go(func() error { return p.serve(l) })
	}
	group.Go(func() error { return client.Run(ctx, c, userHost{rights, local}) })
	return group.Wait()
}

// userTunnel is what a tunnel without an interface is called in the log, and by 'vpncli status --tun'.
const userTunnel = "user"

// A userHost has nothing but its own sockets.
type userHost struct {
	*cli.Rights
	local *netstack.Local
}

func (h userHost) OpenExit() (client.Exit, error)      { return h.local, nil }
func (h userHost) Opener() carrier.Opener              { return nil }
func (h userHost) Open(path string) (*os.File, error)  { return os.Open(path) }
func (h userHost) Replace(path string, b []byte) error { return durable.Replace(path, b) }

// Names implements client.Publisher: nobody asks for them.
func (h userHost) Names([]uint32) (map[uint32]string, error) { return nil, nil }

// HasAddress implements client.Publisher.
func (h userHost) HasAddress() bool { return false }

// Networks implements client.Host.
func (h userHost) Networks(string) (local, remote forward.Network) {
	return forward.Sides{Listener: forward.Sockets{}, Dialer: inside{h.local}}, forward.Sides{Listener: inside{h.local}, Dialer: forward.Sockets{}}
}

// inside is the side of forwards that is in the tunnel.
type inside struct{ local *netstack.Local }

// Dial implements forward.Dialer.
func (s inside) Dial(ctx context.Context, network string, _ netip.Addr, to string) (net.Conn, error) {
	return s.local.Dial(ctx, network, to)
}

// Listen implements forward.Listener. The address is the only one that there is, whichever that is.
func (s inside) Listen(_ context.Context, _, address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return s.local.Listen(at.Port())
}

// ListenPacket implements forward.Listener.
func (s inside) ListenPacket(_ context.Context, address string) (forward.PacketConn, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return s.local.ListenPacket(at.Port())
}
