// Package cli is what the commands have in common besides their settings: how they end, which
// signals they obey, what they need of the host, how they tell a service manager and a shell.
//
//	main -> Main: signals -> ctx -> RunE -> error -> one line on stderr, exit status
//
// Exit status: 0 after a clean stop, 1 after a fault, 2 after a fault of the command line.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/netadmin"
)

// Exit statuses.
const (
	statusFault = 1
	statusUsage = 2
)

// Main runs the command until it ends or a signal stops it, and exits. version is that of the program.
func Main(command func() *cmdline.Command, version string) {
	if netadmin.IsChild() {
		os.Exit(netadmin.Main(config.NewLogger))
	}
	closeInherited()
	cmd := command()
	tellVersion(cmd, version)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetFlagErrorFunc(func(cmd *cmdline.Command, err error) error { return config.FlagError(cmd.Flags(), err) })
	complete(cmd)
	if err := cmd.ExecuteContext(untilSignal(cmd.Name())); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", cmd.Name(), oneLine(err.Error()))
		os.Exit(status(err))
	}
}

// closeInherited closes what the parent of this process left open: strangers speak with this one. What belongs to
// the runtime of Go is not inherited, and is closed on exec.
func closeInherited() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

// tellVersion makes the flag of config do what cobra would do with a template: which, once it is used,
// makes the linker keep every exported method, 1.7 MiB of them.
func tellVersion(cmd *cmdline.Command, version string) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cmdline.Command, args []string) error {
		if asked, _ := cmd.Flags().GetBool("version"); asked {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", cmd.Name(), describe(version))
			return err
		}
		return run(cmd, args)
	}
}

func status(err error) int {
	var usage *config.UsageError
	if errors.As(err, &usage) {
		return statusUsage
	}
	return statusFault
}

// oneLine writes lines behind each other: errors that were joined have one each.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// Args is for commands that take as many arguments as there are names for them.
func Args(names ...string) cmdline.PositionalArgs {
	return func(cmd *cmdline.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return &config.UsageError{Err: fmt.Errorf("got %d arguments: write %s", len(args), strings.Join(append([]string{cmd.CommandPath()}, names...), " "))}
	}
}

// NoArgs is for commands that take flags only; hint says what to write instead.
func NoArgs(hint string) cmdline.PositionalArgs {
	return func(cmd *cmdline.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return &config.UsageError{Err: fmt.Errorf("unexpected argument %q: %s", args[0], hint)}
	}
}

// untilSignal returns a context that ends with the first signal to stop; the second one ends the
// process. Its goroutine lives as long as the process does.
func untilSignal(program string) context.Context {
	// Who reads stdout or stderr may go away: that is an error of write(2), and no end of a tunnel.
	signal.Ignore(syscall.SIGPIPE)
	stop := make(chan os.Signal, 2) // sent to by the runtime; when full it holds all that matter
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // it is under nohup
		signal.Notify(stop, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-stop
		Notify("STOPPING=1")
		cancel()
		<-stop
		fmt.Fprintf(os.Stderr, "%s: second signal: ended without cleaning up; the next start does it\n", program)
		os.Exit(statusFault)
	}()
	return ctx
}

// Reports returns a channel that is sent to for each SIGUSR1, until ctx is done. Its goroutine ends
// then, too. Requests that find another one waiting are dropped.
func Reports(ctx context.Context) <-chan struct{} { return each(ctx, syscall.SIGUSR1) }

// Reloads is Reports for SIGHUP, which stops the program no more.
func Reloads(ctx context.Context) <-chan struct{} {
	signal.Ignore(syscall.SIGHUP) // takes it from untilSignal
	return each(ctx, syscall.SIGHUP)
}

func each(ctx context.Context, sig os.Signal) <-chan struct{} {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, sig)
	reports := make(chan struct{})
	go func() {
		defer signal.Stop(asked)
		for {
			select {
			case <-ctx.Done():
				return
			case <-asked:
			}
			select {
			case <-ctx.Done():
				return
			case reports <- struct{}{}:
			}
		}
	}()
	return reports
}

// complete teaches the completion scripts what flags take. Flags of other values take no files.
func complete(cmd *cmdline.Command) {
	for _, sub := range cmd.Commands() {
		complete(sub)
	}
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cmdline.NoFileCompletions
	}
	words := map[string][]cmdline.Completion{"log-format": config.LogFormats, "log-level": config.LogLevels}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, found := cmd.GetFlagCompletionFunc(f.Name); found {
			return
		}
		switch f.Name {
		case "config", "key":
			_ = cmd.MarkFlagFilename(f.Name, "toml")
		case "state", "publish-dir":
			_ = cmd.MarkFlagDirname(f.Name)
		default:
			_ = cmd.RegisterFlagCompletionFunc(f.Name, cmdline.FixedCompletions(words[f.Name], cmdline.ShellCompDirectiveNoFileComp))
		}
	})
}

// PrintJSON writes v for scripts.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// CompleteURL offers beginnings, of URLs and the like, for a flag of cmd.
func CompleteURL(cmd *cmdline.Command, flag string, beginnings ...cmdline.Completion) {
	offer(cmd, flag, beginnings, cmdline.ShellCompDirectiveNoSpace|cmdline.ShellCompDirectiveNoFileComp)
}

// CompleteWords offers all that a flag of cmd takes.
func CompleteWords(cmd *cmdline.Command, flag string, words ...cmdline.Completion) {
	offer(cmd, flag, words, cmdline.ShellCompDirectiveNoFileComp)
}

func offer(cmd *cmdline.Command, flag string, all []cmdline.Completion, d cmdline.ShellCompDirective) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cmdline.FixedCompletions(all, d)); err != nil {
		panic("cli: completion: " + err.Error())
	}
}
