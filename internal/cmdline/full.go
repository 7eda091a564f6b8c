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

// Completes is set where a program has a command 'completion'.
const Completes = true

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
