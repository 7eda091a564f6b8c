//go:build minimal

package main

import (
	"context"
	"errors"

	"ferry/internal/client"
	"ferry/internal/cmdline"
	"ferry/internal/config"
)

// moreCommands are none here.
func moreCommands() []*cmdline.Command { return nil }

// noRights says what else there is: nothing, here.
func noRights(err error) error { return err }

// stateDir is the same for everybody.
func stateDir() string { return client.DefaultStateDir }

func howToConnect(state string) string {
	if state == client.DefaultStateDir {
		return ""
	}
	return " --state " + state
}

// canForward tells whether this build has forwards.
func canForward(c client.Config) error {
	if len(c.Local)+len(c.Remote) > 0 {
		return errors.New("-L, -R: this is the build for small devices, which is without forwards: take the whole one")
	}
	return nil
}

// connectAsUser needs what this build does not have.
func connectAsUser(context.Context, *config.Client, client.Config) error {
	return errors.New("--user: this is the build for small devices, which is without it: take the whole one")
}

// asVtunnel returns the arguments: the command is not here.
func asVtunnel(args []string) []string { return args }
