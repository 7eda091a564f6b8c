// Command vpnsrv is the gateway: it gives addresses to clients, and switches their packets among
// them and to its own network.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ferry/internal/api/gvproxy/endpoint"
	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/confine"
	"ferry/internal/durable"
	"ferry/internal/exit"
	"ferry/internal/flowlist"
	"ferry/internal/forward"
	"ferry/internal/gateway"
	"ferry/internal/gateway/settings"
	"ferry/internal/l2port"
	"ferry/internal/netadmin"
	"ferry/internal/netstack"
	"ferry/internal/publish"
	"ferry/internal/vtunnel"
)

// version is set by the linker: -ldflags "-X main.version=1.0".
var version = "devel"

func main() { cli.Main(command, version) }

func command() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "vpnsrv",
		Short: "Gateway of the Ferry VPN",
		Long: `vpnsrv gives clients (vpncli) addresses and switches IP packets among them and to this host.
Without arguments it serves TCP and vsock port 2002 with addresses of 10.0.0.0/16.
SIGTERM and SIGINT stop it, SIGHUP applies its configuration anew, SIGUSR1 logs its counters.`,
		Example: `  sudo vpnsrv
  sudo vpnsrv init
  sudo vpnsrv invite cam1
  vpnsrv --exit user
  sudo vpnsrv forward add tcp://:8080 cam1:80
  sudo vpnsrv --nat --push-route 192.168.7.0/24
  sudo vpnsrv --listen unix:///run/vm.sock_2002 --pool 10.9.0.0/24
  vpnsrv completion bash > /etc/bash_completion.d/vpnsrv`,
		Args: cli.NoArgs("all settings are flags: see vpnsrv --help"),
	}
	keys := config.NewGateway(cmd.Flags())
	check := cmd.Flags().Bool("check", false, "check the configuration, and start nothing")
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		c, err := keys.Load()
		switch {
		case err != nil:
			return err
		case *check:
			return gateway.Check(c)
		}
		return serve(cmd.Context(), keys, c)
	}
	cmd.AddCommand(initCommand(), inviteCommand(), peerCommand(), statusCommand(), sessionsCommand(), leasesCommand(), kickCommand(), forwardCommand(), publishedCommand(), webCommand(), captureCommand(), flowsCommand(), reloadCommand(), keyCommand())
	cli.CompleteURL(cmd, "vtunnel-listen", "vsock://:6666", "unix:///", "tcp://127.0.0.1:6666")
	cli.CompleteURL(cmd, "listen", "tcp://:2002", "vsock://:2002", "unix:///")
	cli.CompleteURL(cmd, "gvproxy-api", "unix:///", "vsock://:1024", "tcp://127.0.0.1:")
	cli.CompleteURL(cmd, "gvproxy-listen", "unix:///", "vsock://:1024", "tcp://127.0.0.1:")
	cli.CompleteURL(cmd, "notification", "unix:///")
	cli.CompleteWords(cmd, "exit", settings.ExitKernel, settings.ExitUser)
	cli.CompleteWords(cmd, "profile", settings.ProfileGvproxy)
	cli.CompleteWords(cmd, "publish", "*")
	cli.CompleteURL(cmd, "l2-listen", "qemu+unix:///", "qemu+tcp://127.0.0.1:", "bess+unix:///", "vfkit+unix:///", "stdio:")
	return cmd
}

func serve(ctx context.Context, keys *config.Gateway, c gateway.Config) error {
	if c.Exit == settings.ExitUser {
		return serveAsUser(ctx, keys, c)
	}
	if len(c.Alias) > 0 {
		return errors.New(`alias: only a gateway with exit = "user" dials by itself; for the kernel's network there is DNAT`)
	}
	if err := cli.CanTunnel("vpnsrv", c.TUN); err != nil {
		return fmt.Errorf("%w; or with --exit user, which needs neither rights nor an interface", err)
	}
	host, err := cli.StartHost(netadmin.Rules{
		Program: "vpnsrv", TUN: c.TUN, MTU: c.MTU, Addr: c.Address(), Routes: slices.Collect(maps.Keys(c.Sites)), Read: slices.Concat(keys.Files(), c.GvproxyKeys), Remove: slices.Concat(sockets(c.Listen, c.L2Listen), tunnelSockets(c.VTunnelListen), apiSockets(c)), Echo: gateway.Echo(c.Listen),
		Forward: true, Sockets: socketDirs(c), Open: publishFiles(c),
	}, keys.Process, asking(c, confine.Rules{
		Read:     []string{"/proc/self", "/proc/stat"},                                   // for metrics of this process
		Families: append(tunnelFamilies(c.VTunnelListen), unix.AF_UNIX, unix.AF_NETLINK), // the service manager; addresses of this host
		Connect:  len(c.VTunnelListen) > 0 || c.Notification != "",
	}), c.Log)
	if err != nil {
		return err
	}
	return errors.Join(run(ctx, keys, c, kernelHost{host, c.Log}), host.Close())
}

// asking adds what it takes to ask other name servers.
func asking(c gateway.Config, r confine.Rules) confine.Rules {
	if c.Nameserver {
		r.Families, r.Connect = append(r.Families, unix.AF_INET, unix.AF_INET6), true
	}
	return r
}

// serveAsUser is serve without rights: nothing of the host is changed.
func serveAsUser(ctx context.Context, keys *config.Gateway, c gateway.Config) error {
	rights, err := cli.NewRights(keys.Process, asking(c, confine.Rules{
		Read:     slices.Concat(keys.Files(), c.GvproxyKeys, []string{"/proc/self", "/proc/stat"}), // also to read them again
		Families: []int{unix.AF_UNIX, unix.AF_NETLINK, unix.AF_INET, unix.AF_INET6},
		Connect:  true,
		Bind:     true, // published ports
		Listen:   true,
		Sockets:  socketDirs(c),
		Write:    publishDirs(c),
	}), c.Log)
	if err != nil {
		return err
	}
	return run(ctx, keys, c, &userHost{Rights: rights, c: c})
}

// run runs a gateway with what is the same whatever its exit is.
func run(ctx context.Context, keys *config.Gateway, c gateway.Config, host host) error {
	c.Version = version
	c.Report, c.Reload = cli.Reports(ctx), cli.Reloads(ctx)
	tunnels, err := listenTunnels(ctx, c.VTunnelListen, c.Log)
	if err != nil {
		return err
	}
	count := new(vtunnel.Counters)
	if len(tunnels) > 0 {
		c.Tunnels = count.Stats
	}
	confined := make(chan struct{})
	c.Ready = func() {
		close(confined)
		cli.Notify(cli.Ready, "STATUS=serving "+c.Pool.String()+" by "+cmp.Or(c.TUN, "sockets"))
	}
	c.OpenFile = host.Open
	c.Reread = func() (gateway.Config, error) { return keys.Reread(host.Open) }
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveTunnels(ctx, tunnels, confined, count, c.Log) })
	group.Go(func() error { return gateway.Run(ctx, c, host) })
	return group.Wait()
}

// A host is a gateway.Host that opens the files of its configuration, too.
type host interface {
	gateway.Host
	Open(path string) (*os.File, error)
}

// A kernelHost has a process that may change this host's network.
type kernelHost struct {
	*cli.Host
	log *slog.Logger
}

func (h kernelHost) OpenExit() (gateway.Exit, error) {
	e, err := exit.Open(h.Host, h.log)
	return kernelExit{e, h.Host}, err
}

// A kernelExit knows what passes, too, from the process with the rights.
type kernelExit struct {
	*exit.Exit
	host *cli.Host
}

// Flows implements gateway.Tracker.
func (e kernelExit) Flows(clients []netip.Addr) ([]flowlist.Flow, int, error) {
	return e.host.Flows(clients)
}

// Network implements gateway.Host: sockets come from the process with the rights.
func (h kernelHost) Network() forward.Network { return forward.Lent{From: h.Host} }

// A userHost has nothing but its own sockets.
type userHost struct {
	*cli.Rights
	forward.Sockets // to listen
	c               gateway.Config
	exit            *netstack.Exit
}

// OpenExit implements gateway.Host.
func (h *userHost) OpenExit() (exit gateway.Exit, err error) {
	c := &h.c
	h.exit, err = netstack.New(netstack.Config{
		Log: c.Log, DialTimeout: c.DialTimeout, Dials: c.Dials, ClientDials: c.ClientDials, Conns: c.Conns, Flows: c.Flows, Memory: c.ConnMemory, Idle: c.IdleOf, Alias: c.Alias,
	})
	return h.exit, err
}

// Open opens a file of the configuration.
func (h *userHost) Open(path string) (*os.File, error) { return os.Open(path) }

// Replace implements gateway.Host.
func (h *userHost) Replace(path string, b []byte) error { return durable.ReplaceOpen(path, b) }

// Network implements gateway.Host.
func (h *userHost) Network() forward.Network { return h }

// Dial implements forward.Dialer. It knows no names.
func (h *userHost) Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error) {
	if from.IsValid() {
		return nil, fmt.Errorf("source %s: with --exit user clients see the gateway's own address: leave it out", from)
	}
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return h.exit.Dial(ctx, network, addr)
}

// socketDirs are the directories in which forwards may make unix sockets.
func socketDirs(c gateway.Config) []string {
	dirs := []string{"/run", c.StateDir}
	for _, f := range c.Forwards {
		if f.From.Path != "" {
			dirs = append(dirs, filepath.Dir(f.From.Path))
		}
	}
	for _, path := range apiSockets(c) { // by which such are exposed
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

// publishDirs are the directories for the files that say what is published.
func publishDirs(c gateway.Config) []string {
	if c.PublishDir == "" {
		return nil
	}
	return []string{c.PublishDir}
}

// publishFiles are their paths.
func publishFiles(c gateway.Config) (paths []string) {
	for _, dir := range publishDirs(c) {
		for _, name := range publish.Files() {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}

// apiSockets returns the paths of the unix sockets of gvproxy's API.
func apiSockets(c gateway.Config) (paths []string) {
	for _, url := range slices.Concat(c.GvproxyAPI, c.GvproxyListen) {
		if e, err := endpoint.Parse(url); err == nil && e.SocketPath() != "" {
			if path, err := filepath.Abs(e.SocketPath()); err == nil {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// sockets returns the paths of the unix sockets to listen on.
func sockets(listen, l2 []string) (paths []string) {
	for _, url := range listen {
		if e, err := carrier.ParseListen(url); err == nil && e.Scheme == "unix" {
			if path, err := filepath.Abs(e.Path); err == nil {
				paths = append(paths, path)
			}
		}
	}
	for _, url := range l2 {
		if e, err := l2port.Parse(url); err == nil && e.Path() != "" {
			paths = append(paths, e.Path())
		}
	}
	return paths
}
