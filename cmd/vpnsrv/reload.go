package main

import (
	"cmp"
	"fmt"
	"strings"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
)

func reloadCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "reload",
		Short: "Let the gateway apply its configuration file anew, without dropping a connection",
		Long: `reload makes the running gateway read its configuration file again, with the flags that it was started
with. It says which settings have changed, and which of them wait for a restart. A file with a fault
changes nothing. SIGHUP does the same, and the log says what came of it.`,
		Args: cli.Args(),
	}
	lines := cmd.Flags().Bool("json", false, "print JSON")
	state := ask(cmd)
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error {
		done, err := api.NewClient(*state).Reload(cmd.Context())
		if err != nil {
			return err
		}
		if *lines {
			return cli.PrintJSON(cmd.OutOrStdout(), done)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "applied             %s\n", cmp.Or(strings.Join(done.Applied, ", "), "nothing has changed"))
		if len(done.Waiting) > 0 {
			fmt.Fprintf(w, "wait for a restart  %s\n", strings.Join(done.Waiting, ", "))
		}
		if done.Ended > 0 {
			fmt.Fprintf(w, "connections ended   %d\n", done.Ended)
		}
		return nil
	}
	return cmd
}
