package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ferry/internal/api"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/durable"
	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
)

// The gateway's key is replaced in two steps, with as much time between them as the devices need to hear of it:
//
//	next    FILE.next is made, and announced
//	switch  FILE -> FILE.old, FILE.next -> FILE; with the next start
func keyCommand() *cmdline.Command {
	cmd := &cmdline.Command{
		Use:   "key",
		Short: "Show the gateway's key, or replace it",
		RunE: func(*cmdline.Command, []string) error {
			return &config.UsageError{Err: errors.New("say what to do: vpnsrv key show, next or switch")}
		},
	}
	change := keyStep("switch", "Put the next key into the place of the gateway's key, for its next start", nil)
	state := ask(change)
	force := change.Flags().Bool("force", false, "though there are devices that have not heard of it, and need an invitation then")
	change.RunE = func(cmd *cmdline.Command, _ []string) error {
		if err := haveAllHeard(cmd, *state); err != nil && !*force {
			return err
		}
		return switchKey(cmd, cmd.Flags().Lookup("key").Value.String())
	}
	cmd.AddCommand(
		keyStep("show", "Print the fingerprints of the gateway's keys", showKeys),
		keyStep("next", "Make the key that the gateway will have next, for devices to hear of", nextKey), change)
	return cmd
}

func keyStep(use, short string, do func(cmd *cmdline.Command, path string) error) *cmdline.Command {
	cmd := &cmdline.Command{Use: use, Short: short, Args: cli.Args()}
	path := cmd.Flags().String("key", filepath.Join(settings.DefaultStateDir, "gateway.key"), "`file` with the gateway's key")
	cmd.RunE = func(cmd *cmdline.Command, _ []string) error { return do(cmd, *path) }
	return cmd
}

func showKeys(cmd *cmdline.Command, path string) error {
	for _, suffix := range []string{"", settings.NextKeySuffix, settings.OldKeySuffix} {
		k, err := identity.LoadKey(path + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", k.Public().Pin(), path+suffix)
	}
	return nil
}

func nextKey(cmd *cmdline.Command, path string) error {
	if _, err := identity.LoadKey(path); err != nil {
		return err
	}
	next, err := identity.LoadKey(path + settings.NextKeySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		next = identity.NewKey()
		err = next.Save(path + settings.NextKeySuffix)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), `next key     %s
fingerprint  %s

Announce it:                vpnsrv reload
Who has heard of it:        vpnsrv peer list
When all have:              vpnsrv key switch
`, path+settings.NextKeySuffix, next.Public().Pin())
	return nil
}

// haveAllHeard asks the running gateway, which alone knows.
func haveAllHeard(cmd *cmdline.Command, state string) error {
	all, err := api.NewClient(state).Peers(cmd.Context())
	if err != nil {
		return fmt.Errorf("who has heard of the next key? %w; --force does without", err)
	}
	var not []string
	for _, p := range all.Peers {
		if !p.KnowsNext && !p.Disabled {
			not = append(not, p.Name)
		}
	}
	if len(not) == 0 {
		return nil
	}
	return fmt.Errorf("these have not heard of the next key: %s: wait for them, or --force, and invite them again", strings.Join(not, ", "))
}

func switchKey(cmd *cmdline.Command, path string) error {
	next, err := identity.LoadKey(path + settings.NextKeySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no next key: 'vpnsrv key next' makes one: %w", err)
	}
	if err != nil {
		return err
	}
	// At no moment is there no key: a crash in between leaves two names for the old one.
	old := path + settings.OldKeySuffix
	if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, old); err != nil {
		return err
	}
	if err := os.Rename(path+settings.NextKeySuffix, path); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), `key          %s
fingerprint  %s
before       %s: remove it when no device is left that knows that one alone

Restart the gateway now:    systemctl restart vpnsrv
`, path, next.Public().Pin(), old)
	return nil
}
