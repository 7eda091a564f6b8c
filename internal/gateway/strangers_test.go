package gateway

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A flood of one kind hides no other: each cause is named, and the rest of it counted.
func TestEachCauseIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		l := newStrangerLog(slog.New(slog.NewTextHandler(&log, nil)))
		for i := range 1000 {
			l.Info("flood", "connection refused", "from", i)
		}
		l.Info("rare", "connection refused", "from", "somebody")
		l.Info("rare", "connection refused", "from", "somebody")
		if got := log.all(); len(got) != strangerLines+1 || !strings.Contains(got[strangerLines], "cause=rare") {
			t.Errorf("%d lines:\n%s", len(got), strings.Join(got, ""))
		}
		time.Sleep(time.Second)
		l.Info("flood", "connection refused")
		l.Info("rare", "connection refused")
		got := log.all()[strangerLines+1:]
		for i, want := range []string{fmt.Sprintf("cause=flood left_out_before=%d", 1000-strangerLines), "cause=rare left_out_before=1"} {
			if len(got) != 2 || !strings.Contains(got[i], want) {
				t.Errorf("got %q, want one with %q", got, want)
			}
		}
	})
}
