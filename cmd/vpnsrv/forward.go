package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
)

func forwardCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "forward",
		Short: "Publish ports of clients on this host",
		RunE: func(*cmdline.Command, []string) error {
			return &config.UsageError{Err: errors.New("say what to do: vpnsrv forward add, list or remove")}
		},
	}
	cmd.AddCommand(forwardAdd(), forwardList(), forwardRemove())
	return cmd
}

func forwardAdd() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "add FROM TO",
		Short: "Listen on this host, and hand who comes to a port of a client",
		Long: `add makes the running gateway listen on FROM and carry what comes there to TO, a port of a client. It prints
where it listens. The forward stays, also over a restart, until 'vpnsrv forward remove'.

FROM  tcp://:8080          on all addresses; tcp://127.0.0.1:8080 on one
      tcp://:8080+         or the next port that is free; tcp://:8080+1000 in strides; tcp://:0 any
      udp://:53            the same
      unix:///run/x.sock   a socket for its owner alone
      behind it, joined by &: ?from=192.168.0.0/16,10.0.0.5 who may come; ?proxy=1 or 2 a PROXY header for the
      client that says who came; ?source=ADDRESS of this host that the client sees (not with --exit user)
TO    10.0.3.4:80, or cam1:80 by the name of a device`,
		Example: `  vpnsrv forward add tcp://:8080 10.0.3.4:80
  vpnsrv forward add udp://:53 10.0.3.4:53
  vpnsrv forward add 'tcp://:8443+?from=192.168.0.0/16&proxy=2' cam1:443`,
		Args: cli.Args("FROM", "TO"),
	}
	lines := cmd.Flags().Bool("json", false, "print JSON")
	state := ask(cmd)
	cmd.ValidArgsFunction = func(cmd *cmdline.Command, args []string, _ string) ([]cmdline.Completion, cmdline.ShellCompDirective) {
		var all []cmdline.Completion
		switch len(args) {
		case 0:
			all = []cmdline.Completion{"tcp://:", "udp://:", "unix:///run/"}
		case 1:
			all = clients(cmd.Context(), api.NewClient(*state), ":")
		}
		return all, cmdline.ShellCompDirectiveNoSpace | cmdline.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		f, err := api.NewClient(*state).AddForward(cmd.Context(), api.Publish{From: args[0], To: args[1]})
		switch {
		case err != nil:
			return err
		case *lines:
			return cli.PrintJSON(cmd.OutOrStdout(), f)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s -> %s\n", f.Bound, f.To)
		return err
	}
	return cmd
}

func forwardList() *cmdline.Command {
	return show("list", "List the published ports",
		func(c *api.Client, cmd *cmdline.Command) ([]api.Forward, error) { return c.Forwards(cmd.Context()) }, printForwards)
}

func printForwards(w io.Writer, all []api.Forward) error {
	rows := make([][]any, len(all))
	for i, f := range all {
		var from, state any = f.Bound, cli.Good("open")
		if f.Err != "" {
			from, state = f.From, cli.Bad(f.Err)
		}
		by := "operator"
		if f.Fixed {
			by = "configuration"
		}
		rows[i] = []any{from, f.To, by, f.Connections, f.Total, cli.Bytes(f.Received), cli.Bytes(f.Sent), f.Refused, f.Failed, state}
	}
	return cli.Table(w, []string{"FROM", "TO", "BY", "LIVE", "TOTAL", "RECEIVED", "SENT", "REFUSED", "FAILED", "STATE"}, rows)
}

func forwardRemove() *cmdline.Command {
	cmd := &cmdline.Command{Use: "remove FROM", Short: "Publish a port no more, and end its connections ('vpnsrv forward list' names it)", Args: cli.Args("FROM")}
	state := ask(cmd)
	cmd.ValidArgsFunction = func(cmd *cmdline.Command, args []string, _ string) ([]cmdline.Completion, cmdline.ShellCompDirective) {
		var names []cmdline.Completion
		if all, err := api.NewClient(*state).Forwards(cmd.Context()); err == nil && len(args) == 0 {
			for _, f := range all {
				if !f.Fixed {
					names = append(names, cmdline.CompletionWithDesc(f.From, "to "+f.To))
				}
			}
		}
		return names, cmdline.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		_, err := api.NewClient(*state).RemoveForward(cmd.Context(), args[0])
		return err
	}
	return cmd
}

func publishedCommand() *cmdline.Command {
	return show("published", "List the services that clients announce, and where this host publishes them (vpncli --publish)",
		func(c *api.Client, cmd *cmdline.Command) ([]api.Published, error) { return c.Published(cmd.Context()) }, printPublished)
}

func printPublished(w io.Writer, all []api.Published) error {
	rows := make([][]any, len(all))
	for i, p := range all {
		host, guest := netip.AddrPortFrom(p.Host, p.HostPort), netip.AddrPortFrom(p.GuestIP, p.GuestPort)
		rows[i] = []any{
			p.Protocol + " " + host.String(), cmp.Or(p.ClientName, p.Client.String()), guest, p.Name, p.Connections, p.Total, cli.Bytes(p.Received), cli.Bytes(p.Sent), p.Failed, cli.Age(p.Since), p.Reason,
		}
	}
	return cli.Table(w, []string{"ON", "CLIENT", "SERVICE", "PROGRAM", "LIVE", "TOTAL", "RECEIVED", "SENT", "FAILED", "SINCE", "REASON"}, rows)
}
