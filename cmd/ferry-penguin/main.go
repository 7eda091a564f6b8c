// Command ferry-penguin takes the place of vpnguin in the firmware rehosting system Penguin: at the host as vpn.x86_64, in the guest as vpn.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"ferry/internal/background"
	"ferry/internal/cmdline"
)

// version is set by the linker: -ldflags "-X main.version=1.0".
var version = "devel"

// endTime is how long this program has when it was told to stop: who tells it kills it after 2 s.
const endTime = 1800 * time.Millisecond

func main() {
	// Who reads stdout or stderr may go away, which is no end of what is published.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends the process
		time.AfterFunc(endTime, func() {
			fmt.Fprintln(os.Stderr, "vpn: the disk does not take what was recorded: ended without it")
			os.Exit(1)
		})
	})
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "vpn: %s\n", err)
		os.Exit(1)
	}
}

// A call is a command line.
type call struct {
	cmd       *cmdline.Command
	daemonize bool
}

func command() *cmdline.Command {
	root := &cmdline.Command{
		Use:   "vpn [-d] COMMAND",
		Short: "The VPN of Penguin: services of an emulated machine on ports of its host",
		Long: `vpn takes the place of vpnguin, with its commands, flags and wire; either end may be the original.
'vpn guest' runs in the emulated machine, 'vpn host' beside it, and publishes what a file of events says.
What goes wrong is told on stderr; RUST_LOG=error, warn, info or debug says how much of it.`,
		Example: `  vpn host -e /tmp/vpn_events_4 -c 4 -u /tmp/vsocket -o results -l results/vpn.pcap
  vpn guest -c 4 --own-iface wan0:203.0.113.1/203.0.113.2/24
  vpn wan-probe -c 4 -u /tmp/vsocket --ports 80,443`,
	}
	root.SilenceUsage, root.SilenceErrors = true, true
	asked := root.Flags().BoolP("version", "V", false, "print the version and end")
	root.Flags().BoolP("daemonize", "d", false, "go on in the background")
	root.RunE = func(*cmdline.Command, []string) error {
		if *asked {
			_, err := fmt.Printf("ferry-penguin %s\n", version)
			return err
		}
		return fmt.Errorf("name a command: host, guest, wan-probe, raw or raw-attach ('vpn -h' explains them)")
	}
	for _, add := range []func() *cmdline.Command{guestCommand, hostCommand, probeCommand, rawCommand, attachCommand} {
		root.AddCommand(add())
	}
	return root
}

// newCall returns a command that runs work, in the background if that is asked for.
func newCall(name, short string, work func(ctx context.Context) error) *call {
	c := new(call)
	c.cmd = &cmdline.Command{Use: name, Short: short, SilenceUsage: true, SilenceErrors: true}
	c.cmd.Args = func(_ *cmdline.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unexpected argument %q ('vpn %s -h' lists the flags)", args[0], name)
		}
		return nil
	}
	c.cmd.Flags().BoolVarP(&c.daemonize, "daemonize", "d", false, "go on in the background")
	c.cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		if c.daemonize && !background.IsChild() {
			status, err := background.Start()
			if status != 0 {
				os.Exit(status) // the child has said why
			}
			return err
		}
		return work(cmd.Context())
	}
	return c
}

// newLog returns the log: as much as RUST_LOG says, errors where it says nothing. stdout is for results, and discarded by who starts a host.
func newLog() *slog.Logger {
	text := os.Getenv("RUST_LOG")
	text = strings.ToLower(text[strings.LastIndexByte(text, '=')+1:]) // vsock_vpn=debug
	level := slog.LevelError
	switch text {
	case "warn":
		level = slog.LevelWarn
	case "info":
		level = slog.LevelInfo
	case "debug", "trace":
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
