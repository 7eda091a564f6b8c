//go:build minimal

package main

import "ferry/internal/cmdline"

// moreCommands are none here.
func moreCommands() []*cmdline.Command { return nil }
