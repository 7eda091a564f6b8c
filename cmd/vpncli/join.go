package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/client"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/identity"
	"ferry/internal/netadmin"
)

func joinCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "join STRING",
		Short: "Join a gateway with the string that 'vpnsrv invite' printed",
		Long: `join makes this device's key, checks that the gateway is the one of the invitation, and makes the
two known to each other. From then on vpncli without arguments connects. With '-' in the place of
the string it is read from stdin, where other users of this device do not see it.`,
		Args: cli.Args("STRING"),
	}
	state := cmd.Flags().String("state", stateDir(), "`directory` for this device's key and what it knows of its gateway")
	mark := cmd.Flags().Uint32("mark", 0, "firewall `mark` of the connection; it needs CAP_NET_ADMIN (default: none)")
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		text := args[0]
		if text == "-" {
			line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			text = line
		}
		invitation, err := identity.ParseInvitation(text)
		if err != nil {
			return &config.UsageError{Err: err}
		}
		var marked carrier.Opener
		if *mark != 0 {
			host, err := netadmin.Start(netadmin.Rules{Program: "vpncli", Mark: *mark, Pings: true})
			if err != nil {
				return err
			}
			defer host.Close()
			marked = host
		}
		e, j, err := client.Join(cmd.Context(), invitation, *state, marked)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), `joined as   %s, with the address %s
gateway     %s

Connect:    vpncli%s
`, j.Name, j.Addr, e.Gateway, howToConnect(*state))
		return nil
	}
	return cmd
}

func keyCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "key",
		Short: "Print this device's public key, for 'vpnsrv peer add'; make it if there is none",
		Args:  cli.Args(),
	}
	state := cmd.Flags().String("state", stateDir(), "`directory` with the key")
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		key, err := client.DeviceKey(*state)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), key.Public())
		return nil
	}
	return cmd
}
