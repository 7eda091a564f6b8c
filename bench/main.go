// Bench measures Ferry beside the bare network and beside wireguard-go, in network namespaces:
//
//	c1                           gw                          c2
//	eth0 192.168.101.2 -- eth1 192.168.101.1
//	                           eth2 192.168.102.1 -- eth0 192.168.102.2
//	ferry0 10.0.x.y         vpn0 10.0.0.1             ferry0 10.0.x.y
//	wg*    10.77.0.2        wg*  10.77.0.1
//
// The rules are:
//
//   - What is compared is measured in turn within each run (bare, ferry, wireguard-go, bare, ...), for the
//     speed of a virtual machine changes by a factor of two within minutes.
//   - A ratio is taken within a run; what is reported is the median of the ratios, and of the figures, with
//     the least and the greatest beside it.
//   - TCP is cubic everywhere, and each traffic generator is the same program for all.
//
// With -failover it measures instead how changes of the network interrupt traffic: failover.go, in the networks
// that road.go draws, and beside OpenVPN and iodine too. With -before it measures what sessions cost: cost.go.
//
// It needs root, iperf3, ping and an idle machine. Nothing is left behind, not even after Ctrl-C.
// An error of one row is shown in its place, and the exit status is 1; a bar that is not met is no error.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A bench is what the rows need to know.
type bench struct {
	net       *network
	bin       string        // directory of vpnsrv and vpncli
	self      string        // this program, for its own traffic generators
	wireguard string        // program; empty: not installed
	mtu       int           // of wireguard-go; 0: its own
	runs      int           // how often each figure is measured
	flow      time.Duration // of one TCP flow
	sessions  int           // how many idle ones

	// With -failover:
	atOnce  int           // how many trials run at the same time
	limit   time.Duration // after which none is begun any more
	began   time.Time     // the first one
	observe time.Duration // for how long changes back and forth are counted
	logs    string        // directory for what the programs print; empty: none
	tunnels *atomic.Int32 // of wireguard-go that were made, for their names
	watch   *watchman
}

// A row is a group of figures that are measured together.
type row struct {
	name, about string
	run         func(context.Context, *bench) ([]*line, error)
}

var rows = []row{
	{"tcp", "one TCP flow, client to gateway and back", tcpRow},
	{"tls", "one TCP flow in TLS, client to gateway and back", tlsRow},
	{"forward", "one TCP flow, client to client", forwardRow},
	{"user", "one TCP flow through a gateway without root, to its network and back", userRow},
	{"published", "one TCP connection by a port of the gateway that leads to a client", publishedRow},
	{"udp", "64-byte UDP packets per second", udpRow},
	{"ping", "ping, idle and beside a TCP flow", pingRow},
	{"start", "start of vpncli to the first answered ping", startRow},
	{"rss", "memory of vpnsrv and vpncli", memoryRow},
	{"sessions", "many idle plain sessions", sessionsRow},
	{"secure", "many idle sessions with keys", secureSessionsRow},
	{"flood", "joining and sending beside a flood of handshakes", floodRow},
	{"size", "size of the programs", sizeRow},
}

func main() {
	if len(os.Args) > 1 {
		if sub, ok := generators[os.Args[1]]; ok {
			exit(sub(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// generators are the traffic generators, which this program runs as itself in the namespaces.
var generators = map[string]func(args []string) error{
	"udp-send": udpSend,
	"udp-recv": udpReceive,
	"sessions": holdSessions,
	"flood":    floodHellos,
	"joins":    countJoins,
}

// run measures what the flags say and writes the report.
func run(ctx context.Context) error {
	b := &bench{tunnels: new(atomic.Int32)}
	var only, out, before string
	var failover bool
	flag.IntVar(&b.runs, "runs", 3, "`times` that each figure is measured")
	flag.DurationVar(&b.flow, "time", 3*time.Second, "`duration` of each TCP flow, in whole seconds")
	flag.IntVar(&b.sessions, "sessions", 10_000, "`number` of idle sessions")
	flag.StringVar(&b.bin, "bin", "bin", "`directory` of vpnsrv and vpncli")
	flag.BoolVar(&failover, "failover", false, "measure how changes of the network interrupt traffic instead")
	flag.StringVar(&before, "before", "", "measure what sessions cost instead, beside the programs in this `directory` that had none")
	flag.IntVar(&b.atOnce, "parallel", 5, "with -failover: `number` of trials at the same time")
	flag.DurationVar(&b.limit, "limit", 17*time.Minute, "with -failover: `duration` after which no trial is begun any more")
	flag.DurationVar(&b.observe, "observe", time.Minute, "with -failover: `duration` in which changes back and forth are counted")
	flag.StringVar(&b.logs, "logs", "", "with -failover: existing `directory` for what the programs print in each trial")
	flag.StringVar(&only, "only", "", "measure these `rows` only, with commas between them, and write no file: "+names(rows)+"; with -failover those that begin so")
	flag.StringVar(&out, "out", "", "`file` for the report (default bench/RESULTS.md; with -failover bench/FAILOVER.md, with -before bench/SESSIONS.md)")
	flag.Parse()
	layout := measurements
	switch {
	case failover:
		layout = interruptions
	case before != "":
		layout = sessionsCost
	}
	out = cmp.Or(out, layout.file)
	if b.runs < 1 || b.flow < time.Second || b.flow%time.Second != 0 || b.atOnce < 1 {
		return errors.New("-runs, -parallel: at least 1; -time: whole seconds, at least 1s")
	}
	if err := b.find(); err != nil {
		return err
	}
	restore, err := allowCubic()
	if err != nil {
		return err
	}
	defer restore()
	if b.net, err = newNetwork(); err != nil {
		return err
	}
	defer b.net.Close()
	r := b.newReport(layout)
	if !failover {
		r.machine = append(r.machine, [2]string{"TCP flows", b.flow.String()})
	}
	switch {
	case failover:
		err = b.interrupt(ctx, strings.Split(only, ","), r)
	case before != "":
		err = b.cost(ctx, before, r)
	default:
		err = b.measure(ctx, only, r)
	}
	r.took = time.Since(r.began)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	fmt.Println(r.text())
	if only == "" {
		if writeErr := os.WriteFile(out, []byte(r.markdown()), 0o644); writeErr != nil {
			return errors.Join(err, writeErr)
		}
		progress("written to %s", out)
	}
	return err
}

// find looks for the programs.
func (b *bench) find() (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	for _, name := range []string{"vpnsrv", "vpncli"} {
		if _, err := os.Stat(b.program(name)); err != nil {
			return fmt.Errorf("%w: 'make build' first, or use -bin", err)
		}
	}
	if b.wireguard = findWireguard(); b.wireguard == "" {
		progress("wireguard-go is not installed: %s", installWireguard)
	}
	return nil
}

func (b *bench) program(name string) string { return filepath.Join(b.bin, name) }

// measure measures rows into r, all unless some are named. It goes on after an error, unless it is that ctx has ended.
func (b *bench) measure(ctx context.Context, only string, r *report) error {
	wanted := func(r row) bool { return only == "" || slices.Contains(strings.Split(only, ","), r.name) }
	if !slices.ContainsFunc(rows, wanted) {
		return fmt.Errorf("there is no row %q: choose of %s", only, names(rows))
	}
	var failed []error
	for _, row := range rows {
		if !wanted(row) {
			continue
		}
		progress("%s: %s", row.name, row.about)
		lines, err := row.run(ctx, b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			err = fmt.Errorf("row %s: %w", row.name, err)
			progress("%v", err)
			failed = append(failed, err)
			r.failures = append(r.failures, err.Error())
			continue
		}
		r.lines = append(r.lines, lines...)
	}
	return errors.Join(failed...)
}

func names(rows []row) string {
	var all []string
	for _, r := range rows {
		all = append(all, r.name)
	}
	return strings.Join(all, ", ")
}

// progress tells the person who waits.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// sleep returns false when ctx has ended before d was over.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
