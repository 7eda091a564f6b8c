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
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/confine"
	"ferry/internal/exit"
	"ferry/internal/gateway"
	"ferry/internal/gateway/settings"
	"ferry/internal/l2port"
	"ferry/internal/netadmin"
	"ferry/internal/netstack"
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
	cmd.AddCommand(initCommand(), inviteCommand(), peerCommand(), statusCommand(), sessionsCommand(), leasesCommand(), kickCommand(), reloadCommand(), keyCommand())
	cli.CompleteURL(cmd, "listen", "tcp://:2002", "vsock://:2002", "unix:///")
	return cmd
}

func serve(ctx context.Context, keys *config.Gateway, c gateway.Config) error {
	if c.Exit == settings.ExitUser {
		return serveAsUser(ctx, keys, c)
	}
	if err := cli.CanTunnel("vpnsrv", c.TUN); err != nil {
		return fmt.Errorf("%w; or with --exit user, which needs neither rights nor an interface", err)
	}
	host, err := cli.StartHost(netadmin.Rules{
		Program: "vpnsrv", TUN: c.TUN, MTU: c.MTU, Addr: c.Address(), Routes: slices.Collect(maps.Keys(c.Sites)), Read: keys.Files(), Remove: sockets(c.Listen, c.L2Listen), Echo: gateway.Echo(c.Listen),
	}, keys.Process, confine.Rules{
		Read:     []string{"/proc/self", "/proc/stat"}, // for metrics of this process
		Families: []int{unix.AF_UNIX, unix.AF_NETLINK}, // the service manager; addresses of this host
	}, c.Log)
	if err != nil {
		return err
	}
	return errors.Join(run(ctx, keys, c, kernelHost{host, c.Log}), host.Close())
}

// serveAsUser is serve without rights: nothing of the host is changed.
func serveAsUser(ctx context.Context, keys *config.Gateway, c gateway.Config) error {
	rights, err := cli.NewRights(keys.Process, confine.Rules{
		Read:     append(keys.Files(), "/proc/self", "/proc/stat"), // also to read them again
		Families: []int{unix.AF_UNIX, unix.AF_NETLINK, unix.AF_INET},
		Connect:  true,
	}, c.Log)
	if err != nil {
		return err
	}
	return run(ctx, keys, c, userHost{rights, c.Log})
}

// run runs a gateway with what is the same whatever its exit is.
func run(ctx context.Context, keys *config.Gateway, c gateway.Config, host host) error {
	c.Version = version
	c.Report, c.Reload = cli.Reports(ctx), cli.Reloads(ctx)
	c.Ready = func() { cli.Notify(cli.Ready, "STATUS=serving "+c.Pool.String()+" by "+cmp.Or(c.TUN, "sockets")) }
	c.Reread = func() (gateway.Config, error) { return keys.Reread(host.Open) }
	return gateway.Run(ctx, c, host)
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

func (h kernelHost) OpenExit() (gateway.Exit, error) { return exit.Open(h.Host, h.log) }

// A userHost has nothing but its own sockets.
type userHost struct {
	*cli.Rights
	log *slog.Logger
}

func (h userHost) OpenExit() (gateway.Exit, error)    { return netstack.New(netstack.Config{Log: h.log}) }
func (h userHost) Open(path string) (*os.File, error) { return os.Open(path) }

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
