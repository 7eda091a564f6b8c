//go:build minimal

package client

import (
	"context"
	"errors"
)

// A Publisher has nothing to do: services are published by the whole build only, for what that takes is 0.25 MiB.
type Publisher interface{}

type announcer struct{}

func newAnnouncer(c *Config, _ Publisher, _ string) (*announcer, error) {
	if c.Publish.IsZero() {
		return nil, nil
	}
	return nil, errors.New("--publish: this is the build for small devices, which is without it: take the whole one")
}

func (*announcer) run(context.Context, *roamer) error { return nil }
func (*announcer) show(*Status)                       {}
