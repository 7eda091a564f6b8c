//go:build !minimal

// Package cmdline is cobra, as far as the programs use it: commands below commands, GNU flags, help,
// completion for four shells. Built with -tags minimal it is a small likeness of it without completion, which
// saves a device 0.4 MiB.
package cmdline

import "github.com/spf13/cobra"

// What the programs use.
type (
	Command            = cobra.Command
	PositionalArgs     = cobra.PositionalArgs
	Completion         = cobra.Completion
	CompletionFunc     = cobra.CompletionFunc
	ShellCompDirective = cobra.ShellCompDirective
)

// What a completion function can ask of the shell.
const (
	ShellCompDirectiveNoSpace    = cobra.ShellCompDirectiveNoSpace
	ShellCompDirectiveNoFileComp = cobra.ShellCompDirectiveNoFileComp
)

// Example is a line of examples about completion, where there is one.
func Example(line string) string { return "\n  " + line }

// NoFileCompletions completes nothing.
var NoFileCompletions CompletionFunc = cobra.NoFileCompletions

// FixedCompletions offers choices.
func FixedCompletions(choices []Completion, d ShellCompDirective) CompletionFunc {
	return cobra.FixedCompletions(choices, d)
}

// CompletionWithDesc is a choice with what it means.
func CompletionWithDesc(choice, description string) Completion {
	return cobra.CompletionWithDesc(choice, description)
}
