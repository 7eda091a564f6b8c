package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/flowlist"
)

func flowsCommand() *cmdline.Command {
	var peer string
	cmd := show("flows", "List the connections that go through the gateway now",
		func(c *api.Client, cmd *cmdline.Command) (api.Flows, error) { return c.Flows(cmd.Context(), peer) }, printFlows)
	cmd.Flags().StringVar(&peer, "peer", "", "only of a client: its address, name, or number of its session")
	completePeer(cmd)
	return cmd
}

func printFlows(w io.Writer, f api.Flows) error {
	slices.SortFunc(f.Flows, func(a, b flowlist.Flow) int {
		return cmp.Or(a.Client.Compare(b.Client), a.Remote.Compare(b.Remote))
	})
	rows := make([][]any, len(f.Flows))
	for i, x := range f.Flows {
		var sent, received, expires any = "-", "-", "-"
		if x.Counted {
			sent, received = cli.Bytes(x.Sent), cli.Bytes(x.Received)
		}
		if x.Expires > 0 {
			expires = time.Duration(x.Expires * float64(time.Second)).String()
		}
		rows[i] = []any{x.By, x.Protocol, place(x.Client), place(x.Remote), x.State, cli.Age(x.Since), cli.Age(x.Last), expires, sent, received}
	}
	if err := cli.Table(w, []string{"BY", "PROTOCOL", "CLIENT", "REMOTE", "STATE", "AGE", "IDLE", "EXPIRES", "SENT", "RECEIVED"}, rows); err != nil {
		return err
	}
	if n := len(f.Flows); n < f.Total {
		if _, err := fmt.Fprintf(w, "%d of %d are shown: --peer shows those of one client\n", n, f.Total); err != nil {
			return err
		}
	}
	for _, why := range f.Missing {
		if _, err := fmt.Fprintf(w, "not shown: %s\n", why); err != nil {
			return err
		}
	}
	return nil
}

// place is an address, where there is one: who comes by a unix socket has none.
func place(a netip.AddrPort) any {
	if !a.IsValid() {
		return "-"
	}
	return a
}
