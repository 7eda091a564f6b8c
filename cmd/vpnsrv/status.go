package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
)

// show makes a command that asks the gateway for something, and prints that as a table or as JSON.
func show[T any](use, short string, get func(*api.Client, *cmdline.Command) (T, error), print func(io.Writer, T) error) *cmdline.Command {
	cmd := &cmdline.Command{Use: use, Short: short, Args: cli.Args()}
	lines := cmd.Flags().Bool("json", false, "print JSON")
	state := ask(cmd)
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		got, err := get(api.NewClient(*state), cmd)
		switch {
		case err != nil:
			return err
		case *lines:
			return cli.PrintJSON(cmd.OutOrStdout(), got)
		}
		return print(cmd.OutOrStdout(), got)
	}
	return cmd
}

func statusCommand() *cmdline.Command {
	return show("status", "Show how the gateway does",
		func(c *api.Client, cmd *cmdline.Command) (api.Status, error) { return c.Status(cmd.Context()) }, printStatus)
}

func printStatus(w io.Writer, s api.Status) error {
	var f cli.Fields
	f.Add("gateway", s.Gateway.String()+" on "+cmp.Or(s.Interface, "sockets of its own"))
	f.Add("up", fmt.Sprintf("%s, since %s", cli.Age(s.Started), s.Started.Local().Format(time.DateTime)))
	f.Add("version", s.Version)
	if s.Fingerprint != "" {
		f.Add("fingerprint", s.Fingerprint)
	} else {
		f.Add("fingerprint", cli.Bad("none: plain mode, 'vpnsrv init' makes a key"))
	}
	if s.NextFingerprint != "" {
		f.Add("next key", cli.Fair(s.NextFingerprint))
	}
	for _, l := range s.Listeners {
		f.Add("listener", l.URL+" allows "+l.Allow)
	}
	for _, d := range s.Doors {
		f.Add("listener", d.URL+" serves "+d.For)
	}
	if s.Fingerprint != "" {
		f.Add("pool", s.Pool.String()+", of it without a key "+s.PlainPool.String())
	} else {
		f.Add("pool", s.Pool)
	}
	if len(s.Waiting) > 0 {
		f.Add("wait for a restart", cli.Fair(strings.Join(s.Waiting, ", ")))
	}
	f.Add("devices", s.Peers)
	f.Add("connections", fmt.Sprintf("%d, of which %d have proven nothing yet", s.Sessions, s.Unauthenticated))
	f.Add("leases without a key", fmt.Sprintf("%d live, %d held, %d free", s.Leases.Live, s.Leases.Held, s.Leases.Free))
	f.Add("disk", cli.Bad(s.Leases.Err))
	f.Add("forwarded", fmt.Sprintf("%d packets, %s", s.Packets, cli.Bytes(s.Bytes)))
	f.Add("waiting for clients", cli.Bytes(s.Queued))
	f.Add("dropped", cli.Counts(s.Drops))
	if s.Beyond != nil {
		f.Add("beyond", cli.Counts(s.Beyond))
	}
	if s.Names != nil {
		f.Add("questions for names", cli.Counts(s.Names))
	}
	if s.Tunnels != nil {
		f.Add("tunnels", cli.Counts(s.Tunnels))
	}
	if s.Published > 0 || len(s.Unpublished) > 0 {
		f.Add("services of clients", fmt.Sprintf("%d published", s.Published))
		f.Add("services refused", cli.Counts(s.Unpublished))
	}
	if s.Gvproxy != nil {
		f.Add("gvproxy's API", cli.Counts(s.Gvproxy))
	}
	if s.Notifications != nil {
		f.Add("notifications", cli.Counts(s.Notifications))
	}
	f.Add("ended or refused", cli.Counts(s.Closed))
	return f.Write(w)
}

func sessionsCommand() *cmdline.Command {
	return show("sessions", "List the connections",
		func(c *api.Client, cmd *cmdline.Command) ([]api.Session, error) { return c.Sessions(cmd.Context()) }, printSessions)
}

func printSessions(w io.Writer, all []api.Session) error {
	rows := make([][]any, len(all))
	for i, s := range all {
		var addr, key any = "", cli.Bad("none")
		if s.Address.IsValid() {
			addr = s.Address
		}
		if s.Secure {
			key = cli.Good("proven")
		}
		rows[i] = []any{s.ID, s.Name, addr, from(s), key, cli.Age(s.Since), cli.Bytes(s.Received), cli.Bytes(s.Sent), cli.Counts(s.Drops)}
	}
	return cli.Table(w, []string{"ID", "NAME", "ADDRESS", "FROM", "KEY", "SINCE", "RECEIVED", "SENT", "DROPPED"}, rows)
}

// from tells by which carriers a session is here.
func from(s api.Session) any {
	if s.Away > 0 {
		return cli.Fair(fmt.Sprintf("away for %s", time.Duration(s.Away*float64(time.Second)).Round(time.Second)))
	}
	if len(s.Paths) == 0 {
		return s.From
	}
	var text string
	for _, p := range s.Paths {
		if p.Standby {
			text += fmt.Sprintf(", standby %s %s", p.Carrier, p.From)
		} else {
			text = fmt.Sprintf("%s %s", p.Carrier, p.From) + text
		}
	}
	return strings.TrimPrefix(text, ", ")
}

func leasesCommand() *cmdline.Command {
	return show("leases", "List the addresses of clients without a key",
		func(c *api.Client, cmd *cmdline.Command) ([]api.Lease, error) { return c.Leases(cmd.Context()) }, printLeases)
}

func printLeases(w io.Writer, all []api.Lease) error {
	rows := make([][]any, len(all))
	for i, l := range all {
		var state, session any = cli.Good("live"), any(l.Session)
		if l.Session == 0 {
			state, session = cli.Fair(fmt.Sprintf("held for %s", max(time.Until(l.Until), 0).Round(time.Second))), ""
		}
		rows[i] = []any{l.Address, l.Name, state, session}
	}
	return cli.Table(w, []string{"ADDRESS", "NAME", "STATE", "SESSION"}, rows)
}

func kickCommand() *cmdline.Command {
	cmd := &cmdline.Command{Use: "kick ID", Short: "End a connection ('vpnsrv sessions' lists them)", Args: cli.Args("ID")}
	state := ask(cmd)
	cmd.ValidArgsFunction = func(cmd *cmdline.Command, args []string, _ string) ([]cmdline.Completion, cmdline.ShellCompDirective) {
		var ids []cmdline.Completion
		if all, err := api.NewClient(*state).Sessions(cmd.Context()); err == nil && len(args) == 0 {
			for _, s := range all {
				ids = append(ids, cmdline.CompletionWithDesc(strconv.FormatUint(s.ID, 10), strings.TrimSpace(s.Name+" "+s.From)))
			}
		}
		return ids, cmdline.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		id, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			return &config.UsageError{Err: fmt.Errorf("%q is not the number of a connection", args[0])}
		}
		return api.NewClient(*state).Kick(cmd.Context(), id)
	}
	return cmd
}
