package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"ferry/internal/cli"
	"ferry/internal/client"
	"ferry/internal/cmdline"
	"ferry/internal/failover"
)

func statusCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "status",
		Short: "Show how the vpncli that runs here does",
		Args:  cli.Args(),
	}
	lines := cmd.Flags().Bool("json", false, "print JSON")
	watch := cmd.Flags().BoolP("watch", "w", false, "print it every second, until interrupted")
	tun := cmd.Flags().String("tun", "", "`name` of its interface (default: the only one that there is, or "+client.DefaultTUN+")")
	_ = cmd.RegisterFlagCompletionFunc("tun", func(*cmdline.Command, []string, string) ([]cmdline.Completion, cmdline.ShellCompDirective) {
		return client.Running(), cmdline.ShellCompDirectiveNoFileComp
	})
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		name := *tun
		if name == "" {
			name = client.DefaultTUN
			if running := client.Running(); len(running) == 1 {
				name = running[0]
			}
		}
		print := func() error {
			s, err := client.Ask(cmd.Context(), name)
			if err != nil {
				return err
			}
			if *lines {
				return cli.PrintJSON(cmd.OutOrStdout(), s)
			}
			return printStatus(cmd.OutOrStdout(), s)
		}
		if *watch {
			return cli.Watch(cmd.Context(), cmd.OutOrStdout(), print)
		}
		return print()
	}
	return cmd
}

func printStatus(w io.Writer, s client.Status) error {
	var f cli.Fields
	f.Add("state", stateOf(s))
	f.Add("gateway", s.Server)
	if s.Fingerprint != nil {
		f.Add("fingerprint", *s.Fingerprint)
	}
	f.Add("connected to", s.Peer)
	if s.Switched != nil {
		f.Add("switched", fmt.Sprintf("%s ago to %s: %s", cli.Age(s.Switched.Time), s.Switched.To, s.Switched.Reason))
	}
	for _, w := range s.Ways {
		f.Add("way", wayOf(w))
	}
	switch {
	case s.Secure:
		f.Add("protocol", cli.Good(s.Protocol+", both ends have proven their keys"))
	case s.Protocol != "":
		f.Add("protocol", cli.Bad(s.Protocol+", in plain: no authentication and no encryption"))
	}
	if s.RTT > 0 {
		f.Add("round trip", fmt.Sprintf("%.1f ms", s.RTT*1000))
	}
	f.Add("connections", fmt.Sprintf("%d since %s, %s ago", s.Connections, s.Started.Local().Format(time.DateTime), cli.Age(s.Started)))
	f.Add("interface", s.Interface)
	if s.Address.IsValid() {
		f.Add("address", fmt.Sprintf("%s in %s, gateway %s, MTU %d", s.Address, s.Prefix, s.Gateway, s.MTU))
	}
	f.Add("routes", cli.Join(s.Routes))
	for _, r := range s.Refused {
		f.Add("refused", cli.Fair(fmt.Sprintf("%s %s: %s", r.What, r.Value, r.Reason)))
	}
	for _, w := range s.Forwards {
		f.Add("forward", forwardOf(w))
	}
	if len(s.Proxies) > 0 {
		f.Add("refused or reset", cli.Counts(s.Proxies))
	}
	if s.Unpublished != nil {
		f.Add("announced", strings.Join(s.Published, ", "))
		f.Add("not announced", cli.Counts(s.Unpublished))
	}
	f.Add("sent", traffic(s.Sent))
	f.Add("received", traffic(s.Received))
	f.Add("dropped", cli.Counts(s.Drops))
	for i := len(s.Faults) - 1; i >= 0; i-- {
		f.Add("error", fmt.Sprintf("%s ago: %s", cli.Age(s.Faults[i].Time), s.Faults[i].Error))
	}
	f.Add("version", fmt.Sprintf("%s, process %d", s.Version, s.Pid))
	return f.Write(w)
}

// forwardOf is a line about one forward.
func forwardOf(s client.ForwardStatus) any {
	if s.Err != "" {
		return cli.Bad(fmt.Sprintf("%s %s -> %s: %s", option(s.Side), s.From, s.To, s.Err))
	}
	return fmt.Sprintf("%s %s -> %s: %d of %d connections live, %d refused, %d failed", option(s.Side), s.Bound, s.To, s.Connections, s.Total, s.Refused, s.Failed)
}

// wayOf is a line about one way to the gateway.
func wayOf(w failover.WayStatus) any {
	switch w.State {
	case "in use":
		return cli.Good(w.String())
	case "penalised", "suspect":
		return cli.Bad(w.String())
	}
	return w.String()
}

func stateOf(s client.Status) any {
	switch since := cli.Age(s.Since); s.State {
	case client.EventConnected:
		return cli.Good("connected for " + since)
	case client.EventReconnecting:
		return cli.Bad(fmt.Sprintf("not connected, tries again in %.1f s", max(time.Until(s.RetryAt).Seconds(), 0)))
	default:
		return cli.Fair(fmt.Sprintf("%s for %s", s.State, since))
	}
}

func traffic(t client.Traffic) string {
	return fmt.Sprintf("%d packets, %s", t.Packets, cli.Bytes(t.Bytes))
}
