//go:build minimal

// Package cmdline is a small likeness of cobra: see full.go.
package cmdline

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// A Command is what a user can write. Its fields and methods are those of cobra.Command.
type Command struct {
	Use, Short, Long, Example string

	Args              PositionalArgs
	RunE              func(*Command, []string) error
	ValidArgsFunction CompletionFunc // of no use here, as all about completion
	SilenceUsage      bool
	SilenceErrors     bool

	flags    *pflag.FlagSet
	parent   *Command
	below    []*Command
	ctx      context.Context
	badFlags func(*Command, error) error
}

// A PositionalArgs judges the arguments that are no flags.
type PositionalArgs func(*Command, []string) error

// Completion and what belongs to it exist for those who describe it.
type (
	Completion         = string
	CompletionFunc     = func(*Command, []string, string) ([]Completion, ShellCompDirective)
	ShellCompDirective int
)

// What a completion function can ask of the shell.
const (
	ShellCompDirectiveNoSpace ShellCompDirective = 1 << iota
	ShellCompDirectiveNoFileComp
)

// Example is a line of examples about completion, where there is one.
func Example(string) string { return "" }

// NoFileCompletions completes nothing.
var NoFileCompletions CompletionFunc

// FixedCompletions completes nothing.
func FixedCompletions([]Completion, ShellCompDirective) CompletionFunc { return nil }

// CompletionWithDesc returns the choice.
func CompletionWithDesc(choice, _ string) Completion { return choice }

// RegisterFlagCompletionFunc does nothing.
func (c *Command) RegisterFlagCompletionFunc(string, CompletionFunc) error { return nil }

// GetFlagCompletionFunc says that there is one already.
func (c *Command) GetFlagCompletionFunc(string) (CompletionFunc, bool) { return nil, true }

// MarkFlagFilename does nothing.
func (c *Command) MarkFlagFilename(string, ...string) error { return nil }

// MarkFlagDirname does nothing.
func (c *Command) MarkFlagDirname(string) error { return nil }

// Name returns the first word of Use.
func (c *Command) Name() string {
	name, _, _ := strings.Cut(c.Use, " ")
	return name
}

// CommandPath returns the names from the program to this command.
func (c *Command) CommandPath() string {
	if c.parent == nil {
		return c.Name()
	}
	return c.parent.CommandPath() + " " + c.Name()
}

// Flags returns the flags of this command.
func (c *Command) Flags() *pflag.FlagSet {
	if c.flags == nil {
		c.flags = pflag.NewFlagSet(c.Name(), pflag.ContinueOnError)
		c.flags.SetOutput(io.Discard)
		c.flags.Usage = func() {}
	}
	return c.flags
}

// AddCommand adds commands below this one.
func (c *Command) AddCommand(below ...*Command) {
	for _, b := range below {
		b.parent = c
	}
	c.below = append(c.below, below...)
}

// Commands returns the commands below this one.
func (c *Command) Commands() []*Command { return c.below }

// Context returns that of ExecuteContext.
func (c *Command) Context() context.Context {
	if c.parent != nil {
		return c.parent.Context()
	}
	return c.ctx
}

// OutOrStdout is where results go to.
func (c *Command) OutOrStdout() io.Writer { return os.Stdout }

// ErrOrStderr is where remarks go to.
func (c *Command) ErrOrStderr() io.Writer { return os.Stderr }

// InOrStdin is where answers come from.
func (c *Command) InOrStdin() io.Reader { return os.Stdin }

// SetFlagErrorFunc sets what makes an error of flags fit for people, for all commands.
func (c *Command) SetFlagErrorFunc(f func(*Command, error) error) { c.badFlags = f }

// ExecuteContext runs the command that the arguments of the program name.
func (c *Command) ExecuteContext(ctx context.Context) error {
	c.ctx = ctx
	at, args := c, os.Args[1:]
	for len(args) > 0 {
		next := at.find(args[0])
		if next == nil {
			break
		}
		at, args = next, args[1:]
	}
	fs := at.Flags()
	if fs.Lookup("help") == nil {
		fs.BoolP("help", "h", false, "print this help and end")
	}
	if err := fs.Parse(args); err != nil {
		return c.badFlags(at, err)
	}
	if help, _ := fs.GetBool("help"); help {
		return at.help()
	}
	if at.Args != nil {
		if err := at.Args(at, fs.Args()); err != nil {
			return err
		}
	}
	return at.RunE(at, fs.Args())
}

func (c *Command) find(name string) *Command {
	for _, b := range c.below {
		if b.Name() == name {
			return b
		}
	}
	return nil
}

func (c *Command) help() error {
	var b strings.Builder
	about := c.Long
	if about == "" {
		about = c.Short
	}
	use := c.Use
	if c.parent != nil {
		use = c.parent.CommandPath() + " " + use
	}
	fmt.Fprintf(&b, "%s\n\nUsage:\n  %s [flags]\n", about, use)
	if c.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	if len(c.below) > 0 {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.below {
			fmt.Fprintf(&b, "  %-12s%s\n", sub.Name(), sub.Short)
		}
	}
	fmt.Fprintf(&b, "\nFlags:\n%s", c.Flags().FlagUsages())
	_, err := io.WriteString(c.OutOrStdout(), b.String())
	return err
}
