package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sync/errgroup"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/web"
)

func webCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "web",
		Short: "Show the gateway in a browser, until Ctrl-C",
		Long: `web prints a URL. The page that it opens shows the running gateway: sessions and their traffic, published ports, which
it adds and removes, and why packets are dropped. Who has the URL may do what the page can, as long as the command runs.

It listens on this host for this host. From another machine, with one port on both sides:
  ssh -t -L 8088:127.0.0.1:8088 GATEWAY sudo vpnsrv web --listen 127.0.0.1:8088`,
		Args: cli.Args(),
	}
	listen := cmd.Flags().String("listen", "127.0.0.1:0", "`address` of the loopback interface, with a port (0: any)")
	open := cmd.Flags().Bool("open", false, "open it in a browser, too (not as root)")
	state := ask(cmd)
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		if *open && os.Geteuid() == 0 {
			return &config.UsageError{Err: errors.New("--open: a browser is not started as root: leave it out, and open the URL yourself")}
		}
		addr, err := web.ParseAddr(*listen)
		if err != nil {
			return &config.UsageError{Err: fmt.Errorf("--listen: %w", err)}
		}
		if _, err := api.NewClient(*state).Status(cmd.Context()); err != nil {
			return err
		}
		b, err := web.Listen(cmd.Context(), addr, *state, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		return bridge(cmd, b, *open)
	}
	return cmd
}

// bridge serves b until the command is to end.
func bridge(cmd *cmdline.Command, b *web.Bridge, open bool) error {
	_, port, err := net.SplitHostPort(b.Addr().String())
	if err != nil {
		return errors.Join(err, b.Close())
	}
	fmt.Fprintln(cmd.OutOrStdout(), b.URL())
	fmt.Fprintf(cmd.ErrOrStderr(), "Open it in a browser of this machine, or after  ssh -L %s:%s THIS-HOST  on another. Ctrl-C ends it.\n", port, b.Addr())
	group, ctx := errgroup.WithContext(cmd.Context())
	group.Go(func() error { return b.Serve(ctx) })
	if open {
		group.Go(func() error {
			if err := openBrowser(ctx, b.URL()); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "--open:", err)
			}
			return nil
		})
	}
	err = group.Wait()
	if refused := b.Refused(); len(refused) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "refused requests:", cli.Counts(refused))
	}
	return err
}

// openBrowser opens a file that leads to the URL: the arguments of a program can be read by every user of the host.
func openBrowser(ctx context.Context, url string) error {
	program, err := exec.LookPath("xdg-open")
	if err != nil {
		return fmt.Errorf("%w: open the URL yourself, or install xdg-utils", err)
	}
	file, err := os.CreateTemp("", "ferry-*.html") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = fmt.Fprintf(file, "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0; url=%s\"><title>Ferry</title>\n", url)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := exec.CommandContext(ctx, program, file.Name()).Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w: open the URL yourself", program, err)
	}
	<-ctx.Done() // the browser may read the file late
	return nil
}
