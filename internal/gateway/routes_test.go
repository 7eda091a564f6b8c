package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"unicode"

	"ferry/internal/api"
	"ferry/internal/identity"
)

// pipes is a listener of pipes, which need no real time.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error { close(p); return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "pipe"} }

// asks serves one request as the control socket does, or as the listener for metrics. It returns the
// status and the body of the answer.
func asks(l *lab, open bool, method, path, host, origin, body string) (int, string, error) {
	l.settle() // the gateway serves before it answers
	ctx, cancel := context.WithCancel(context.Background())
	conns, done := make(pipes), make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	go func() {
		if open {
			done <- api.ServeOpen(ctx, conns, l.g.metrics, log)
			return
		}
		done <- api.Serve(ctx, conns, l.g.handler(), log)
	}()
	a, b := net.Pipe()
	conns <- b
	go func() { // ends with the connection
		_, _ = fmt.Fprintf(a, "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s", method, path, host, origin, len(body), body)
	}()
	all, err := io.ReadAll(a)
	a.Close()
	cancel()
	if serveErr := <-done; serveErr != nil {
		return 0, "", serveErr
	}
	synctest.Wait()
	if len(all) < 12 {
		return 0, "", fmt.Errorf("answer %q, %w", all, err)
	}
	var code int
	_, err = fmt.Sscanf(string(all), "HTTP/1.1 %d", &code)
	_, answer, _ := strings.Cut(string(all), "\r\n\r\n")
	return code, answer, err
}

// Whoever is not the operator gets nothing by any route that there is, and the listener for metrics has no
// other.
// exam: H1, H2
func TestEveryRouteRefuses(t *testing.T) {
	withKey(t, func(l *lab) error {
		if n := len(l.g.routes()); n < 10 {
			return fmt.Errorf("%d routes only", n)
		}
		for _, r := range l.g.routes() {
			method, path, two := strings.Cut(r.pattern, " ")
			if !two {
				method, path = http.MethodGet, r.pattern
			}
			path = strings.NewReplacer("{id}", "1", "{number}", "1", "{name}", "cam1", "{$}", "").Replace(path)
			if path == "/v1/capture" {
				path += "?seconds=1" // or it goes on
			}
			metrics := path == "/metrics" || path == "/healthz"
			for _, tt := range []struct {
				name, host, origin string
				open               bool
				want               func(int) bool
			}{
				{"as the operator", "ferry", "", false, func(code int) bool { return code != 403 && code != 405 && code < 500 }},
				{"by another name", "gateway.example", "", false, func(code int) bool { return code == 403 }},
				{"by an address", "127.0.0.1", "", false, func(code int) bool { return code == 403 }},
				{"from a page", "ferry", "Origin: http://gateway.example\r\n", false, func(code int) bool { return code == 403 }},
				{"from a page of nobody", "ferry", "Origin: null\r\n", false, func(code int) bool { return code == 403 }},
				{"by TCP", "127.0.0.1", "", true, func(code int) bool { return code == 200 && metrics || code == 404 && !metrics }},
				{"by TCP and a name", "gateway.example", "", true, func(code int) bool { return code == 403 }},
			} {
				code, body, err := asks(l, tt.open, method, path, tt.host, tt.origin, "{}")
				if err != nil || !tt.want(code) {
					return fmt.Errorf("%s %s %s: got %d, %.100s, %w", method, path, tt.name, code, body, err)
				}
			}
		}
		return nil
	})
}

// What names a thing in a path is looked up, and is never a path of the gateway's disk.
// exam: H2
func TestIDsAreNoPaths(t *testing.T) {
	withKey(t, func(l *lab) error {
		if _, err := l.add("cam1"); err != nil {
			return err
		}
		secret := filepath.Join(filepath.Dir(l.g.c().StateDir), "secret")
		if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
			return err
		}
		before := files(l.g.c().StateDir)
		for _, id := range []string{
			"..%2fsecret", "..%2f..%2fetc%2fpasswd", "%2e%2e%2fsecret", "../secret", "%2fetc%2fpasswd", "cam1%00", "%00", "peers.json", ".",
			"%0d%0aX:%201", "cam1%0a", "%ff", "-1", "18446744073709551616", "0x1", strings.Repeat("a", 4000), strings.Repeat("%2f", 1000),
		} {
			for _, what := range []struct{ method, path string }{
				{"DELETE", "/v1/peers/"}, {"PATCH", "/v1/peers/"}, {"DELETE", "/v1/sessions/"}, {"DELETE", "/v1/forwards?from="}, {"DELETE", "/v1/forwards?from=unix://"},
				{"DELETE", "/v1/capture/"}, {"GET", "/"}, {"GET", "/page.js/"}, {"GET", "/v1/"},
			} {
				code, body, err := asks(l, false, what.method, what.path+id, "ferry", "", "{}")
				if err != nil || code < 300 || code >= 500 || code != http.StatusTemporaryRedirect && strings.Contains(body, "secret\"") {
					return fmt.Errorf("%s %s%.60s: got %d, %.200s, %w", what.method, what.path, id, code, body, err)
				}
				if len(body) > 1000 {
					return fmt.Errorf("%s %s%.60s: %d bytes of answer", what.method, what.path, id, len(body))
				}
			}
		}
		if _, err := os.Stat(secret); err != nil {
			return err
		}
		if after := files(l.g.c().StateDir); !slices.Equal(before, after) {
			return fmt.Errorf("the state directory had %v, and has %v", before, after)
		}
		return nil
	})
}

func files(dir string) (all []string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		all = append(all, path)
		return nil
	})
	return all
}

// What an operator says wrongly comes back as one short line of text, and changes nothing.
// exam: M13
func TestNamesInRequests(t *testing.T) {
	for name, text := range map[string]string{
		"lines":   "cam1\nlevel=ERROR msg=forged",
		"escapes": "cam1\x1b[2J\x1b]0;title\x07",
		"nothing": "cam1\x00",
		"turned":  "cam1\u202eexe.",
		"1 MiB":   strings.Repeat("x", 1<<20-1000) + "!",
	} {
		t.Run(name, func(t *testing.T) {
			withKey(t, func(l *lab) error {
				key := identity.NewKey().Public().String()
				for what, in := range map[string]any{
					"/v1/peers":             api.Peer{Name: text, Key: key},
					"/v1/peers?key":         api.Peer{Name: "cam2", Key: text},
					"/v1/invitations":       api.Invite{Name: text, Servers: []string{"gw"}},
					"/v1/invitations?where": api.Invite{Name: "cam3", Servers: []string{text}},
				} {
					body, err := json.Marshal(in)
					if err != nil {
						return err
					}
					code, answer, err := asks(l, false, http.MethodPost, what, "ferry", "", string(body))
					var failure struct{ Error string }
					if err := errors.Join(err, json.Unmarshal([]byte(answer), &failure)); err != nil || code != 400 {
						return fmt.Errorf("%s: got %d, %.300q, %w", what, code, answer, err)
					}
					said := failure.Error
					if said == "" || len(said) > 256 || strings.ContainsFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }) {
						return fmt.Errorf("%s: %d bytes: %.300q", what, len(said), said)
					}
				}
				peers, err := l.g.listPeers()
				if err != nil || len(peers.Peers)+len(peers.Invitations) > 0 {
					return fmt.Errorf("%+v, %w", peers, err)
				}
				return nil
			})
		})
	}
}
