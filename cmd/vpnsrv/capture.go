package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"ferry/internal/api"
	"ferry/internal/capture/pcap"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
)

func captureCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "capture [FILTER]",
		Short: "Capture packets as they pass the gateway, from client to client, too",
		Long: `capture writes a line for each packet that passes the running gateway, or with -w a file for tcpdump and wireshark, until
it is interrupted or a limit is reached. Then it says how many packets were captured, and how many the capture had no room for.
Packets are inside the tunnel: as clients send and receive them. One of up to 64 KiB is what a kernel hands over at once, and
becomes many on a wire.

FILTER is as tcpdump has it: host, net, port, portrange, src, dst, ip, tcp, udp, icmp, proto, less, greater, and, or, not, ( ).`,
		Example: `  vpnsrv capture
  vpnsrv capture --peer cam1 tcp port 80 or 443
  vpnsrv capture -w cam1.pcap --peer 10.0.3.4 --seconds 60
  vpnsrv capture -w - not port 22 | tcpdump -nr -`,
	}
	var asked api.Capture
	f := cmd.Flags()
	file := f.StringP("write", "w", "", "write a file of pcap; - is stdout")
	f.StringVar(&asked.Peer, "peer", "", "only from and to a client: its address, name, or number of its session")
	f.Uint64VarP(&asked.Snaplen, "snaplen", "s", 0, "capture that many bytes of each packet (default all)")
	f.Uint64VarP(&asked.Packets, "count", "c", 0, "end after that many packets")
	f.Uint64Var(&asked.Bytes, "bytes", 0, "end before the file has more bytes")
	f.Float64Var(&asked.Seconds, "seconds", 0, "end after that time")
	state := ask(cmd)
	_ = cmd.MarkFlagFilename("write")
	completePeer(cmd)
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		asked.Filter = strings.Join(args, " ")
		out := cmd.OutOrStdout()
		if *file == "-" && cli.IsTerminal(out) {
			return &config.UsageError{Err: errors.New("-w -: a terminal shows no pcap: name a file, or leave -w out")}
		}
		return record(cmd.Context(), api.NewClient(*state), asked, *file, out, cmd.ErrOrStderr())
	}
	return cmd
}

// completePeer completes the flag --peer with clients.
func completePeer(cmd *cmdline.Command) {
	_ = cmd.RegisterFlagCompletionFunc("peer", func(cmd *cmdline.Command, _ []string, _ string) ([]cmdline.Completion, cmdline.ShellCompDirective) {
		return clients(cmd.Context(), api.NewClient(cmd.Flags().Lookup("state").Value.String()), ""), cmdline.ShellCompDirectiveNoFileComp
	})
}

// clients returns what clients are called: names of devices, and addresses of those without a key that are here. Each has end behind it.
func clients(ctx context.Context, c *api.Client, end string) (all []cmdline.Completion) {
	if peers, err := c.Peers(ctx); err == nil {
		for _, p := range peers.Peers {
			all = append(all, p.Name+end)
		}
	}
	if sessions, err := c.Sessions(ctx); err == nil {
		for _, s := range sessions {
			if !s.Secure && s.Address.IsValid() {
				all = append(all, cmdline.CompletionWithDesc(s.Address.String()+end, strings.TrimSpace(s.Name+" "+s.From)))
			}
		}
	}
	return all
}

// endTime is how long the gateway may take to end a capture.
const endTime = 5 * time.Second

// record captures until the end of the capture or of ctx. Then what the gateway has captured before is still taken.
func record(ctx context.Context, c *api.Client, asked api.Capture, file string, stdout, stderr io.Writer) (err error) {
	asking, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	r, err := c.Capture(asking, asked)
	if err != nil {
		return err
	}
	defer r.Close()
	take := func() error { return printPackets(stdout, r) }
	switch file {
	case "":
	case "-":
		take = func() error { return copyAll(stdout, r) }
	default:
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // what passes is nobody else's business
		if err != nil {
			return err
		}
		take = func() error { return errors.Join(copyAll(f, r), f.Close()) }
	}
	if _, err := fmt.Fprintln(stderr, "capturing, until Ctrl-C or a limit"); err != nil {
		return err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		time.AfterFunc(endTime, giveUp)
		if r.End(asking) != nil {
			giveUp()
		}
	})
	err = take()
	if !stop() {
		<-ended
	}
	if errors.Is(err, syscall.EPIPE) { // who reads has seen enough
		return nil
	}
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	captured, dropped, err := r.Counts()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stderr, "%d packets captured, %d dropped\n", captured, dropped)
	return err
}

func copyAll(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, r)
	return err
}

// printPackets writes a line for each packet.
func printPackets(w io.Writer, from io.Reader) error {
	in := bufio.NewReaderSize(from, 1<<16)
	r, err := pcap.NewReader(in)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	for {
		p, err := r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(out.Flush(), err)
		}
		if _, err = fmt.Fprintln(out, pcap.Line(p)); err == nil && in.Buffered() == 0 { // nothing more for now
			err = out.Flush()
		}
		if err != nil {
			return err
		}
	}
}
