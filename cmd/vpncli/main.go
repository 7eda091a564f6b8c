// Command vpncli is the client: it connects this device to a gateway through a TUN interface.
package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/client"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/confine"
	"ferry/internal/exit"
	"ferry/internal/netadmin"
)

// version is set by the linker: -ldflags "-X main.version=1.0".
var version = "devel"

func main() {
	os.Args = asVtunnel(os.Args)
	cli.Main(command, version)
}

func command() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "vpncli -s SERVER",
		Short: "Client of the Ferry VPN",
		Long: `vpncli connects this device to a gateway (vpnsrv) through a TUN interface, and connects again
whenever the connection is lost. SIGTERM and SIGINT stop it, and take back all that it did to
the network of this device; SIGUSR1 logs its counters.`,
		Example: `  sudo vpncli -s 192.168.0.1
  sudo vpncli join ferry1-... && sudo vpncli
  sudo vpncli -s vsock://2:2002 -a 10.0.3.7
  sudo vpncli -s tcp://gateway.example:2002 --default-route
  sudo vpncli status
  sudo vpncli -s 192.168.0.1 -L 8080:10.0.0.1:80 -R 2222:localhost:22
  vpncli --user -s 192.168.0.1 --socks5 127.0.0.1:1080
  sudo vpncli probe` + cmdline.Example("vpncli completion bash > /etc/bash_completion.d/vpncli"),
		Args: cli.NoArgs("name the gateway with -s, as in vpncli -s 192.168.0.1"),
	}
	lines := cmd.Flags().Bool("json", false, "print each event as a line of JSON on stdout")
	keys := config.NewClient(cmd.Flags())
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error { return connect(cmd.Context(), keys, *lines) }
	cmd.AddCommand(joinCommand(), keyCommand(), statusCommand(), probeCommand())
	cmd.AddCommand(moreCommands()...)
	completeWays(cmd)
	cli.CompleteURL(cmd, "local-forward", "8080:", "8080+:", "udp:5353:")
	cli.CompleteURL(cmd, "remote-forward", "8080:localhost:", "0:localhost:", "udp:5353:localhost:")
	cli.CompleteURL(cmd, "publish", "auto", "auto,loopback", "auto,names", "tcp:", "udp:")
	return cmd
}

func connect(ctx context.Context, keys *config.Client, lines bool) error {
	c, err := keys.Load()
	if err != nil {
		return err
	}
	if err := canForward(c); err != nil {
		return err
	}
	t := teller{log: c.Log, plain: os.Stdout}
	if lines {
		t.lines, t.plain = os.Stdout, nil
	}
	c.Version = version
	c.Report, c.Events = cli.Reports(ctx), t.tell
	if c.User {
		return connectAsUser(ctx, keys, c)
	}
	if c.SOCKS5 != "" || c.HTTPProxy != "" {
		return &config.UsageError{Err: errors.New("--socks5 and --http-proxy lead into a tunnel without an interface: add --user")}
	}
	if err := cli.CanTunnel("vpncli", c.TUN); err != nil {
		return noRights(err)
	}
	var files []string
	if c.Joined != "" {
		files = append(files, c.Joined, c.Ways)
	}
	host, err := cli.StartHost(netadmin.Rules{
		Program: "vpncli", TUN: c.TUN, MTU: cmp.Or(c.Policy.MTU, client.DefaultMTU), Mark: c.Mark, Pings: c.Pings(), Echo: client.Echo, Table: c.Table, Policy: &c.Policy, Connect: sockets(c),
		Read: files, Write: files, Forward: len(c.Local)+len(c.Remote) > 0 || !c.Publish.IsZero(), Inside: len(c.Local) == 0, Sockets: socketDirs(c), Names: c.Publish.Names,
	}, keys.Process, confine.Rules{
		Read:     nameFiles(),
		Families: []int{unix.AF_INET, unix.AF_INET6, unix.AF_VSOCK, unix.AF_NETLINK},
		Connect:  true,
		Bind:     !c.Key.IsZero(), // sockets of carriers by datagrams; those of TCP are bound by nobody (Landlock)
	}, c.Log)
	if err != nil {
		return err
	}
	return errors.Join(client.Run(ctx, c, kernelHost{host, c.Log}), host.Close())
}

// A kernelHost has a process that may change this host's network.
type kernelHost struct {
	*cli.Host
	log *slog.Logger
}

func (h kernelHost) OpenExit() (client.Exit, error) { return exit.Open(h.Host, h.log) }
func (h kernelHost) Opener() carrier.Opener         { return h.Host }

// nameFiles returns the directories with the files by which names are looked up: other programs replace them.
func nameFiles() []string {
	dirs := []string{"/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"}
	for _, name := range []string{"resolv.conf", "hosts", "nsswitch.conf"} {
		if path, err := filepath.EvalSymlinks("/etc/" + name); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return dirs
}

// socketDirs are the directories in which forwards listen on unix sockets.
func socketDirs(c client.Config) (dirs []string) {
	for _, f := range c.Local {
		if f.From.Path != "" {
			dirs = append(dirs, filepath.Dir(f.From.Path))
		}
	}
	return dirs
}

// sockets returns the paths of the unix sockets that lead to a gateway, or to services that forwards lead to.
func sockets(c client.Config) (paths []string) {
	for _, url := range c.Servers {
		if e, err := carrier.ParseDial(url, c.Port); err == nil && e.Scheme == "unix" {
			paths = append(paths, e.Path)
		}
	}
	for _, f := range c.Remote {
		if f.To.Path != "" {
			paths = append(paths, f.To.Path)
		}
	}
	return paths
}
