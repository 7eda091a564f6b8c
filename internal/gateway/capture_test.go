package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"ferry/internal/capture"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
)

func TestCaptureRequests(t *testing.T) {
	g, end := forwarding(t, Config{StateDir: t.TempDir(), Key: identity.NewKey(), Reserved: map[string]netip.Addr{"old": netip.MustParseAddr("10.0.200.9")}})
	defer end()
	addr := netip.MustParseAddr("10.0.0.77")
	if _, err := g.devices.Add(peerstore.Peer{Name: "cam1", Key: identity.NewKey().Public(), Addrs: []netip.Addr{addr}}); err != nil {
		t.Fatal(err)
	}
	h := g.handler()
	for request, want := range map[string]struct {
		status int
		text   string
	}{
		"HEAD /v1/capture":                        {200, ""},
		"HEAD /v1/capture?peer=cam1&filter=tcp":   {200, ""},
		"HEAD /v1/capture?peer=10.0.3.4":          {200, ""},
		"HEAD /v1/capture?peer=old":               {200, ""},
		"GET /v1/capture?peer=192.0.2.1":          {400, "192.0.2.1 is no client"},
		"GET /v1/capture?peer=nobody":             {400, "no device is called nobody"},
		"GET /v1/capture?peer=17":                 {404, "17: no such session"},
		"GET /v1/capture?filter=tcp+port+http":    {400, `filter: character 10, at \"http\"`},
		"GET /v1/capture?limit=1":                 {400, "there is no such parameter"},
		"DELETE /v1/capture/5":                    {404, "no such capture"},
		"DELETE /v1/capture/..%2f":                {404, "no such capture"},
		"DELETE /v1/capture/99999999999999999999": {404, "no such capture"},
	} {
		method, url, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, url, nil))
		if w.Code != want.status || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: got %d, %s", request, w.Code, w.Body)
		}
	}
	if got, err := g.addressesOf("cam1"); err != nil || len(got) != 1 || got[0] != addr {
		t.Errorf("cam1: got %v, %v", got, err)
	}
	for range capture.MaxCaptures {
		c, err := g.captures.Start(capture.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c.End()
		defer func() { _ = c.Run(t.Context(), func([]byte) error { return nil }) }()
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/capture", nil))
	if w.Code != http.StatusConflict {
		t.Errorf("one too many: got %d, %s", w.Code, w.Body)
	}
}
