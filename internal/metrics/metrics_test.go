package metrics

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"ferry/internal/api"
)

var status = api.Status{
	Version: "7", Sessions: 3, Unauthenticated: 1, Peers: 2, Packets: 10, Bytes: 5000, Queued: 20,
	Drops: map[string]uint64{"source": 4}, Names: map[string]uint64{"local": 11}, Tunnels: map[string]uint64{"made": 12},
	Gvproxy: map[string]uint64{"refused": 18, "tunnels_refused": 19}, Notifications: map[string]uint64{"notifications_dropped": 20}, Closed: map[string]uint64{"left": 5, "plain_refused": 6},
	Forwards: map[string]api.ForwardTotals{"tcp": {Connections: 12, Total: 13, Received: 14, Sent: 15, Refused: map[string]uint64{"full": 16, "source": 17}}},
	Leases:   api.Leases{Free: 7, Live: 8, Held: 9, Err: "no space left on device"},
}

// exam: H7
func TestMetrics(t *testing.T) {
	c := collector{func() api.Status { return status }}
	for name, want := range map[string]string{
		Info: Info + `{version="7"} 1`, Sessions: Sessions + " 3", Unauthenticated: Unauthenticated + " 1", Peers: Peers + " 2",
		Packets: Packets + " 10", Bytes: Bytes + " 5000", Drops: Drops + `{reason="source"} 4`,
		Ended: Ended + `{cause="left"} 5` + "\n" + Ended + `{cause="plain_refused"} 6`, Queued: Queued + " 20", Questions: Questions + `{outcome="local"} 11`, Tunnels: Tunnels + `{outcome="made"} 12`,
		Gvproxy:       Gvproxy + `{outcome="refused"} 18` + "\n" + Gvproxy + `{outcome="tunnels_refused"} 19`,
		Notifications: Notifications + `{outcome="notifications_dropped"} 20`,
		ForwardConns:  ForwardConns + `{scheme="tcp"} 12`, ForwardTotal: ForwardTotal + `{scheme="tcp"} 13`,
		ForwardBytes:   ForwardBytes + `{direction="received",scheme="tcp"} 14` + "\n" + ForwardBytes + `{direction="sent",scheme="tcp"} 15`,
		ForwardRefused: ForwardRefused + `{reason="full",scheme="tcp"} 16` + "\n" + ForwardRefused + `{reason="source",scheme="tcp"} 17`,
		Leases:         Leases + `{state="free"} 7` + "\n" + Leases + `{state="held"} 9` + "\n" + Leases + `{state="live"} 8`, Storage: Storage + " 0",
	} {
		got, err := testutil.CollectAndFormat(c, expfmt.TypeTextPlain, name)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(got)) {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		if text := strings.Join(lines, "\n"); text != want {
			t.Errorf("got %s, want %s", text, want)
		}
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// exam: H7
func TestHandler(t *testing.T) {
	h := Handler(func() api.Status { return status })
	for path, want := range map[string]string{"/metrics": "ferry_sessions 3", "/healthz": "ok, but leases can not be stored", "/debug/pprof/": "404"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %.200s, want %q", path, w.Body, want)
		}
	}
}
