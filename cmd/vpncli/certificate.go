//go:build !minimal

package main

import (
	"fmt"

	"ferry/internal/cli"
	"ferry/internal/client"
	"ferry/internal/cmdline"
)

// moreCommands are those that a minimal build leaves out.
func moreCommands() []*cmdline.Command {
	return []*cmdline.Command{certificateCommand(), vtunnelCommand()}
}

func certificateCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "certificate",
		Short: "Print this device's key in a certificate, for other clients of connect-ip",
		Long: `certificate prints a certificate of this device's key, and the private key itself, in PEM: a client that
knows connect-ip (RFC 9484) and nothing of Ferry shows it to a gateway that this device has joined,
and is this device there. Whoever reads it is this device, too:

  umask 077 && vpncli certificate > device.pem`,
		Args: cli.Args(),
	}
	state := cmd.Flags().String("state", stateDir(), "`directory` with the key")
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		key, err := client.DeviceKey(*state)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "# device %s\n", key.Public())
		if e, err := client.LoadEnrolment(*state); err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "# gateway %s\n", e.Gateway)
		}
		_, err = cmd.OutOrStdout().Write(key.PEM())
		return err
	}
	return cmd
}
