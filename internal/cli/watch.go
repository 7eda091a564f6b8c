package cli

import (
	"context"
	"fmt"
	"io"
	"time"
)

// watchInterval is how often what is watched is printed.
const watchInterval = time.Second

// clearScreen puts the cursor into the upper left corner of an empty terminal (ECMA-48).
const clearScreen = "\x1b[H\x1b[2J"

// Watch calls print every second until ctx is done, on a terminal always in the same place.
func Watch(ctx context.Context, w io.Writer, print func() error) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		if IsTerminal(w) {
			fmt.Fprint(w, clearScreen)
		}
		if err := print(); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
