package config

import (
	"fmt"
	"os"
	"path/filepath"

	"ferry/internal/client"
	"ferry/internal/gateway/settings"
)

// userState returns the directory for the state of a program that its user has started, who is not root: below $XDG_STATE_HOME
// (https://specifications.freedesktop.org/basedir-spec).
func userState(ofRoot string) string {
	home := os.Getenv("XDG_STATE_HOME")
	if os.Geteuid() == 0 || home == "" && os.Getenv("HOME") == "" {
		return ofRoot
	}
	if !filepath.IsAbs(home) {
		home = filepath.Join(os.Getenv("HOME"), ".local", "state")
	}
	return filepath.Join(home, "ferry")
}

// StateDir returns where the state of a gateway is by default: that of this user, if there is one, else that of root.
func StateDir() string {
	own := userState(settings.DefaultStateDir)
	if _, err := os.Stat(own); err != nil {
		return settings.DefaultStateDir
	}
	return own
}

// ClientStateDir returns where the state of a client is by default, which its user starts with --user if that is not root.
func ClientStateDir() string { return userState(client.DefaultStateDir) }

func parseExit(s string) (string, error) {
	if s != settings.ExitKernel && s != settings.ExitUser {
		return "", fmt.Errorf("%q is neither %s nor %s", s, settings.ExitKernel, settings.ExitUser)
	}
	return s, nil
}
