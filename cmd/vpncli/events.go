package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"ferry/internal/cli"
	"ferry/internal/client"
)

// A teller tells scripts and the service manager what happens to the connection.
type teller struct {
	lines io.Writer // of JSON; nil: none, or nobody reads them any more
	plain io.Writer // of lines that say where forwards listen; nil: none
	log   *slog.Logger
}

func (t *teller) tell(e client.Event) {
	if e.Kind == client.EventForward && t.plain != nil && e.Forward.Err == "" {
		_, _ = fmt.Fprintf(t.plain, "%s %s -> %s\n", option(e.Forward.Side), e.Forward.Bound, e.Forward.To)
	}
	if t.lines != nil {
		if err := json.NewEncoder(t.lines).Encode(e); err != nil {
			t.log.Warn("no more events are printed", "err", err)
			t.lines = nil
		}
	}
	if e.Kind == client.EventForward {
		return
	}
	if e.Kind == client.EventAddress {
		cli.Notify(cli.Ready, state(e))
		return
	}
	cli.Notify(state(e))
}

// option is what stood before a forward of a side.
func option(side string) string {
	if side == client.SideLocal {
		return "-L"
	}
	return "-R"
}

// state is an event for the people who read systemctl status.
func state(e client.Event) string {
	s := "STATUS=" + string(e.Kind)
	if e.Address.IsValid() {
		s += fmt.Sprintf(" %s on %s", e.Address, e.Interface)
	}
	if e.Server != "" {
		s += " via " + e.Server
	}
	if e.RetryIn > 0 {
		s += fmt.Sprintf(" in %.1fs", e.RetryIn)
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}
