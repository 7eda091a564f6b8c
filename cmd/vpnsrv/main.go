// Command vpnsrv is the gateway: it gives addresses to clients, and switches their packets among
// them and to its own network.
package main

import (
	"context"

	"github.com/spf13/cobra"

	"ferry/internal/cli"
	"ferry/internal/config"
	"ferry/internal/gateway"
)

// version is set by the linker: -ldflags "-X main.version=1.0".
var version = "devel"

func main() { cli.Main(command(), version) }

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vpnsrv",
		Short: "Gateway of the Ferry VPN",
		Long: `vpnsrv gives clients (vpncli) addresses and switches IP packets among them and to this host.
Without arguments it serves TCP and vsock port 2002 with addresses of 10.0.0.0/16.
SIGTERM and SIGINT stop it, SIGUSR1 logs its counters.`,
		Example: `  sudo vpnsrv
  sudo vpnsrv init
  sudo vpnsrv invite cam1
  sudo vpnsrv --nat --push-route 192.168.7.0/24
  sudo vpnsrv --listen unix:///run/vm.sock_2002 --pool 10.9.0.0/24
  vpnsrv completion bash > /etc/bash_completion.d/vpnsrv`,
		Args: cli.NoArgs("all settings are flags: see vpnsrv --help"),
	}
	keys := config.NewGateway(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), keys) }
	cmd.AddCommand(initCommand(), inviteCommand(), peerCommand(), statusCommand(), sessionsCommand(), kickCommand())
	cli.CompleteURL(cmd, "listen", "tcp://:2002", "vsock://:2002", "unix:///")
	return cmd
}

func serve(ctx context.Context, keys *config.Gateway) error {
	c, err := keys.Load()
	if err != nil {
		return err
	}
	if err := cli.CanTunnel("vpnsrv", c.TUN); err != nil {
		return err
	}
	c.Version = version
	c.Report = cli.Reports(ctx)
	c.Ready = func() { cli.Notify(cli.Ready, "STATUS=serving "+c.Pool.String()+" by "+c.TUN) }
	return gateway.Run(ctx, c)
}
