package netns

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A device that was told one way and has found others goes by those that worked here when it is started again, though
// that one is closed.
func TestRemembersWays(t *testing.T) {
	t.Parallel()
	h := newServed(t, "wss://:443")
	state := h.join(h.c, "cam1")
	dev := newClient(t, h.c, "--state", state)
	dev.waitConnected()
	dev.goesBy(patience, "tcp://")
	traffic := newNumberedStream(t, h.c, h.gw, gatewayVPN, 50*time.Millisecond) // that something is missing
	h.onlyPort443()
	dev.goesBy(patience, "wss://")
	time.Sleep(11 * time.Second) // what was in use for a moment has not worked
	traffic.end()
	stop(t, dev.Proc)

	b, err := os.ReadFile(filepath.Join(state, "ways.json"))
	if err != nil || strings.Count(string(b), "wss://") != 2 {
		t.Errorf("the device remembers %s, %v", b, err)
	}
	dev = newClient(t, h.c, "--state", state)
	dev.waitConnected()
	first, _, _ := strings.Cut(dev.Output(), `"event":"connected"`)
	if strings.Contains(first, "tcp://") || !strings.HasPrefix(dev.way(), "wss://") {
		t.Errorf("connected by %q, with\n%s", dev.way(), dev.Output())
	}
}
