package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/config"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how the gateway does", Args: cli.Args()}
	lines := cmd.Flags().Bool("json", false, "print JSON")
	state := ask(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := api.NewClient(*state).Status(cmd.Context())
		if err != nil {
			return err
		}
		if *lines {
			return cli.PrintJSON(cmd.OutOrStdout(), s)
		}
		return printStatus(cmd.OutOrStdout(), s)
	}
	return cmd
}

func printStatus(w io.Writer, s api.Status) error {
	return table(w, "gateway\t"+s.Gateway.String()+" on "+s.Interface, func(row func(...any)) {
		row("version", s.Version)
		row("up", time.Since(s.Started).Round(time.Second))
		row("fingerprint", cmp.Or(s.Fingerprint, "none: plain mode, 'vpnsrv init' makes a key"))
		for _, l := range s.Listeners {
			row("listener", l.URL+" allows "+l.Allow)
		}
		row("pool", s.Pool.String()+", of it without a key: "+s.PlainPool.String())
		row("connections", fmt.Sprintf("%d, of which %d have proven nothing yet", s.Sessions, s.Unauthenticated))
		row("devices", s.Peers)
		row("plain leases", fmt.Sprintf("%d live, %d held, %d free", s.Leases.Live, s.Leases.Held, s.Leases.Free))
		if s.Leases.Err != "" {
			row("disk", s.Leases.Err)
		}
		row("forwarded", fmt.Sprintf("%d packets, %d bytes", s.Packets, s.Bytes))
		if len(s.Waiting) > 0 {
			row("wait for a restart", strings.Join(s.Waiting, ", "))
		}
		row("waiting", fmt.Sprintf("%d bytes", s.Queued))
		row("dropped", counts(s.Drops))
		row("ended", counts(s.Closed))
	})
}

// counts writes counters with their reasons.
func counts(n map[string]uint64) string {
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(n)) {
		all = append(all, fmt.Sprintf("%s %d", reason, n[reason]))
	}
	return cmp.Or(strings.Join(all, ", "), "nothing")
}

func sessionsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "sessions", Short: "List the connections", Args: cli.Args()}
	lines := cmd.Flags().Bool("json", false, "print JSON")
	state := ask(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := api.NewClient(*state).Sessions(cmd.Context())
		if err != nil {
			return err
		}
		if *lines {
			return cli.PrintJSON(cmd.OutOrStdout(), all)
		}
		return table(cmd.OutOrStdout(), "ID\tNAME\tADDRESS\tFROM\tSECURE\tSINCE\tRECEIVED\tSENT\tDROPPED", func(row func(...any)) {
			for _, s := range all {
				addr := "-"
				if s.Address.IsValid() {
					addr = s.Address.String()
				}
				secure := "no"
				if s.Secure {
					secure = "yes"
				}
				row(s.ID, cmp.Or(s.Name, "-"), addr, s.From, secure, time.Since(s.Since).Round(time.Second), s.Received, s.Sent, counts(s.Drops))
			}
		})
	}
	return cmd
}

func kickCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kick ID", Short: "End a connection ('vpnsrv sessions' lists them)", Args: cli.Args("ID")}
	state := ask(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			return &config.UsageError{Err: fmt.Errorf("%q is not the number of a connection", args[0])}
		}
		return api.NewClient(*state).Kick(cmd.Context(), id)
	}
	return cmd
}
