package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/mdp/qrterminal/v3"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
)

// ask adds --state to a command that asks a running gateway.
func ask(cmd *cmdline.Command) *string {
	return cmd.Flags().String("state", config.StateDir(), "state `directory` of the gateway")
}

// of are the addresses and networks of a device.
type of struct{ addrs, routes []string }

func (o *of) flags(cmd *cmdline.Command) {
	cmd.Flags().StringArrayVar(&o.addrs, "ip", nil, "`address` of the device; repeatable, one connection at a time for each (default: one is chosen)")
	cmd.Flags().StringArrayVar(&o.routes, "route", nil, "`CIDR` of a network behind the device; repeatable")
}

func (o *of) parse() (addrs []netip.Addr, routes []netip.Prefix, err error) {
	for _, s := range o.addrs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, nil, &config.UsageError{Err: fmt.Errorf("--ip: %q is not an address: write it as 10.0.3.7", s)}
		}
		addrs = append(addrs, a)
	}
	for _, s := range o.routes {
		r, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, nil, &config.UsageError{Err: fmt.Errorf("--route: %q is not a network: write it as 192.168.7.0/24", s)}
		}
		routes = append(routes, r)
	}
	return addrs, routes, nil
}

func inviteCommand() *cmdline.Command {
	var o of
	var ttl time.Duration
	var qr bool
	var servers []string
	cmd := &cmdline.Command{
		Use:   "invite NAME",
		Short: "Print a string with which one device can join",
		Long: `invite prints one string: where this gateway is, the hash of its key, and a secret that opens once.
On the device: vpncli join STRING. Whoever has the string can join in the device's place until then.`,
		Args: cli.Args("NAME"),
	}
	o.flags(cmd)
	cmd.Flags().DurationVar(&ttl, "ttl", 15*time.Minute, "`time` for which it opens, as 15m or 24h")
	cmd.Flags().BoolVar(&qr, "qr", false, "print it as a QR code, too")
	cmd.Flags().StringArrayVar(&servers, "server", nil, "`URL` by which the device finds this gateway; repeatable (default: 'public' of the configuration)")
	state := ask(cmd)
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		addrs, routes, err := o.parse()
		if err != nil {
			return err
		}
		if ttl < time.Second {
			return &config.UsageError{Err: fmt.Errorf("--ttl: %s is too short: write for example 15m", ttl)}
		}
		made, err := api.NewClient(*state).Invite(cmd.Context(), api.Invite{
			Name: args[0], Addresses: addrs, Routes: routes, TTL: ttl.Seconds(), Servers: servers,
		})
		if err != nil {
			return err
		}
		if qr {
			qrterminal.GenerateHalfBlock(made.Invitation, qrterminal.L, cmd.OutOrStdout())
		}
		fmt.Fprintln(cmd.OutOrStdout(), made.Invitation)
		fmt.Fprintf(cmd.ErrOrStderr(), "On the device:  vpncli join STRING    by %s; it finds the gateway at %s\n",
			made.Expires.Local().Format(time.DateTime), strings.Join(made.Servers, ", "))
		return nil
	}
	return cmd
}

func peerCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "peer",
		Short: "Add, list, disable and remove devices",
		RunE: func(*cmdline.Command, []string) error {
			return &config.UsageError{Err: errors.New("say what to do: vpnsrv peer add, list, disable, enable or rm")}
		},
	}
	cmd.AddCommand(peerAdd(), peerList(), peerRemove(), peerDisable("disable", true), peerDisable("enable", false))
	return cmd
}

func peerAdd() *cmdline.Command {
	var o of
	cmd := &cmdline.Command{
		Use: "add NAME KEY", Short: "Let the device with a key connect ('vpncli key' prints it)",
		Args: cli.Args("NAME", "KEY"),
	}
	o.flags(cmd)
	state := ask(cmd)
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		addrs, routes, err := o.parse()
		if err != nil {
			return err
		}
		p, err := api.NewClient(*state).AddPeer(cmd.Context(), api.Peer{Name: args[0], Key: args[1], Addresses: addrs, Routes: routes})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s has %s\n", p.Name, cli.Join(p.Addresses))
		return nil
	}
	return cmd
}

func peerList() *cmdline.Command {
	return show("list", "List devices and open invitations",
		func(c *api.Client, cmd *cmdline.Command) (api.Peers, error) { return c.Peers(cmd.Context()) }, printPeers)
}

func printPeers(w io.Writer, all api.Peers) error {
	var rows [][]any
	for _, p := range all.Peers {
		rows = append(rows, []any{p.Name, cli.Join(p.Addresses), cli.Join(p.Routes), stateOf(p), p.Key})
	}
	for _, i := range all.Invitations {
		rows = append(rows, []any{i.Name, "", "", cli.Fair("invited until " + i.Expires.Local().Format(time.DateTime)), ""})
	}
	return cli.Table(w, []string{"NAME", "ADDRESSES", "ROUTES", "STATE", "KEY"}, rows)
}

func stateOf(p api.Peer) any {
	switch {
	case p.Disabled:
		return cli.Bad("disabled")
	case len(p.Sessions) > 0 && p.KnowsNext:
		return cli.Good("connected, was told of the next key")
	case len(p.Sessions) > 0:
		return cli.Good("connected")
	case p.KnowsNext:
		return "away, was told of the next key"
	}
	return "away"
}

func peerRemove() *cmdline.Command {
	cmd := &cmdline.Command{Use: "rm NAME", Short: "Remove a device and end its connections, or withdraw an invitation", Args: cli.Args("NAME")}
	state := ask(cmd)
	cmd.ValidArgsFunction = peerNames(state)
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		_, err := api.NewClient(*state).RemovePeer(cmd.Context(), args[0])
		return err
	}
	return cmd
}

func peerDisable(word string, disabled bool) *cmdline.Command {
	short := "Let a disabled device connect again"
	if disabled {
		short = "Keep a device from connecting, and end its connections"
	}
	cmd := &cmdline.Command{Use: word + " NAME", Short: short, Args: cli.Args("NAME")}
	state := ask(cmd)
	cmd.ValidArgsFunction = peerNames(state)
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		_, err := api.NewClient(*state).ChangePeer(cmd.Context(), args[0], api.Change{Disabled: &disabled})
		return err
	}
	return cmd
}

// peerNames completes the name of a device.
func peerNames(state *string) cmdline.CompletionFunc {
	return func(cmd *cmdline.Command, args []string, _ string) ([]cmdline.Completion, cmdline.ShellCompDirective) {
		var names []cmdline.Completion
		if all, err := api.NewClient(*state).Peers(cmd.Context()); err == nil && len(args) == 0 {
			for _, p := range all.Peers {
				names = append(names, p.Name)
			}
			for _, i := range all.Invitations {
				names = append(names, i.Name)
			}
		}
		return names, cmdline.ShellCompDirectiveNoFileComp
	}
}
