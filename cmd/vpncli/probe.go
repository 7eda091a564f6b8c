package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/client"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/netadmin"
)

// probeFlags are those of vpncli that say something about the ways to a gateway; the others are understood too, and of no effect.
var probeFlags = []string{"json", "mark", "server", "carrier", "port", "gateway", "plain", "state", "config", "help"}

func probeCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "probe",
		Short: "Try what gets through to the gateway from here, and how well",
		Long: `probe tries every carrier by which the gateway may be reached, up to four at a time, 10 s each, and
prints what works, how well, or why not. It changes nothing on this device, and asks the gateway
for no address; a vpncli that is connected goes on.

Tried is what -s names, or what this device has joined; where no carrier is named, the usual port
of each too: tcp, udp and quic 2002, wss and connect-ip 443, ssh 2022, and icmp. RTT is the shortest
of 20 round trips. LARGEST is the longest frame of 576, 1000, 1280 and 1400 bytes that came back.
ESTIMATE is rough: what came back within half a second while as much was sent, both ways at once,
alone on the line.
Without a key there are tcp, vsock and unix, and nothing but round trips.

The exit status is 0 when something works.`,
		Example: `  sudo vpncli probe
  sudo vpncli probe -s gateway.example --carrier tcp,wss
  vpncli probe --plain -s 192.168.0.1`,
		Args: cli.NoArgs("name the gateway with -s, as in vpncli probe -s 192.168.0.1"),
	}
	lines := cmd.Flags().Bool("json", false, "print JSON")
	mark := cmd.Flags().Uint32("mark", 0, "firewall `mark` of the connections, with which they pass by a full tunnel; it needs CAP_NET_ADMIN\n(default: that of vpncli where it may be set, else none)")
	keys := config.NewClient(cmd.Flags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains(probeFlags, f.Name) })
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		c, err := keys.Peek()
		if err != nil {
			return err
		}
		switch {
		case cmd.Flags().Changed("mark"):
			c.Mark = *mark
		case !cli.HasNetAdmin():
			c.Mark = 0
		}
		return probe(cmd, c, *lines)
	}
	completeWays(cmd)
	return cmd
}

// probe tries the ways that c names, and prints what comes of them.
func probe(cmd *cmdline.Command, c client.Config, lines bool) error {
	var marked carrier.Opener
	if c.Mark != 0 {
		host, err := netadmin.Start(netadmin.Rules{Program: "vpncli", Mark: c.Mark, Pings: true, Connect: sockets(c)})
		if err != nil {
			return err
		}
		defer host.Close()
		marked = host
	} else if len(client.Running()) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "vpncli: one is connected here: if everything goes into its tunnel, so does this probe, unless root runs it")
	}
	p, err := client.NewProbe(c, marked)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	t := newProbeTable(out, p.Ways())
	var all []client.ProbeResult
	switch {
	case lines:
		all = p.Run(cmd.Context(), nil)
		err = cli.PrintJSON(out, struct {
			Ways []client.ProbeResult `json:"ways"`
		}{all})
	case cli.IsTerminal(out):
		t.head()
		all = p.Run(cmd.Context(), t.row)
	default:
		all = p.Run(cmd.Context(), nil)
		t.head()
		for _, r := range all {
			t.row(r)
		}
	}
	if err == nil {
		err = t.err
	}
	if err == nil && !slices.ContainsFunc(all, func(r client.ProbeResult) bool { return r.Works }) {
		err = errors.New("nothing gets through to the gateway from here: the reasons are above")
	}
	return err
}

// A probeTable is printed line by line, as results come: its columns are as wide as what may come.
type probeTable struct {
	w      io.Writer
	widths []int
	err    error // the first one
}

var probeHead = []string{"CARRIER", "WAY", "WORKS", "RTT", "LARGEST", "ESTIMATE", "REASON"}

func newProbeTable(w io.Writer, ways []string) *probeTable {
	t := &probeTable{w: w, widths: []int{7, 3, 5, 8, 7, 11, 0}}
	for _, way := range ways {
		carrier, _, _ := strings.Cut(way, ":")
		t.widths[0] = max(t.widths[0], len(carrier))
		t.widths[1] = max(t.widths[1], len([]rune(way)))
	}
	return t
}

func (t *probeTable) head() {
	head := slices.Clone(probeHead)
	for i := range head {
		head[i] = t.pad(i, head[i])
	}
	t.note(cli.Table(t.w, head, nil))
}

func (t *probeTable) row(r client.ProbeResult) {
	var works any = cli.Bad(t.pad(2, "no"))
	switch {
	case r.Works && r.Reason != "":
		works = cli.Fair(t.pad(2, "yes"))
	case r.Works:
		works = cli.Good(t.pad(2, "yes"))
	}
	cells := []any{t.pad(0, r.Carrier), t.pad(1, r.Way), works, t.pad(3, rttOf(r.RTT)), t.pad(4, some(r.Largest)), t.pad(5, rateOf(r.Estimate)), r.Reason}
	if r.Reason == "" {
		cells = cells[:len(cells)-1]
	}
	t.note(cli.Table(t.w, make([]string, len(cells)), [][]any{cells}))
}

func (t *probeTable) note(err error) {
	if t.err == nil {
		t.err = err
	}
}

// pad makes a text as wide as its column.
func (t *probeTable) pad(column int, text string) string {
	return fmt.Sprintf("%-*s", t.widths[column], text)
}

func some(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// rttOf writes seconds as milliseconds.
func rttOf(s float64) string {
	switch ms := s * 1000; {
	case s == 0:
		return "-"
	case ms < 1:
		return fmt.Sprintf("%.2f ms", ms)
	default:
		return fmt.Sprintf("%.1f ms", ms)
	}
}

// rateOf writes an estimate, of which two digits are worth something.
func rateOf(bits float64) string {
	unit, digits := "kbit/s", 0
	switch {
	case bits == 0:
		return "-"
	case bits >= 1e9:
		bits, unit, digits = bits/1e9, "Gbit/s", 1
	case bits >= 1e7:
		bits, unit = bits/1e6, "Mbit/s"
	case bits >= 1e6:
		bits, unit, digits = bits/1e6, "Mbit/s", 1
	default:
		bits /= 1e3
	}
	return fmt.Sprintf("%.*f %s", digits, bits, unit)
}

// completeWays teaches the completion scripts how a gateway is named, and what carriers there are.
func completeWays(cmd *cmdline.Command) {
	cli.CompleteURL(cmd, "server", "tcp://", "vsock://2:", "unix://")
	_ = cmd.RegisterFlagCompletionFunc("carrier", func(_ *cmdline.Command, _ []string, typed string) ([]cmdline.Completion, cmdline.ShellCompDirective) {
		before := typed[:strings.LastIndex(typed, ",")+1]
		var all []cmdline.Completion
		if before == "" {
			all = append(all, "auto")
		}
		for _, name := range carrier.Names() {
			if !slices.Contains(strings.Split(before, ","), name) {
				all = append(all, before+name)
			}
		}
		return all, cmdline.ShellCompDirectiveNoFileComp
	})
}
