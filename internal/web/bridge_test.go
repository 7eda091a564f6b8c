package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/api"
	"ferry/internal/durable"
)

// A fake answers as a gateway does, with what a test wants it to say.
type fake struct {
	dir string // state directory

	mu       sync.Mutex
	status   api.Status
	sessions []api.Session
	leases   []api.Lease
	forwards []api.Forward
	asked    []*http.Request
}

// newFake serves a fake at its control socket until the test ends.
func newFake(t *testing.T, more map[string]http.Handler) *fake {
	t.Helper()
	f := &fake{dir: t.TempDir(), sessions: []api.Session{}, leases: []api.Lease{}, forwards: []api.Forward{}}
	state, err := durable.Open(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := api.Listen(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	mux := f.mux(more)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.asked = append(f.asked, r.Clone(context.Background()))
		f.mu.Unlock()
		mux.ServeHTTP(w, r)
	})
	go func() { done <- api.Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = state.Close()
	})
	return f
}

func (f *fake) mux(more map[string]http.Handler) *http.ServeMux {
	bad := func(error) int { return http.StatusBadRequest }
	mux := http.NewServeMux()
	for _, p := range Patterns() {
		mux.Handle(p, Page())
	}
	for p, h := range more {
		mux.Handle(p, h)
	}
	mux.Handle("GET /v1/routes", answers(f, func() []string { return slices.Collect(maps.Keys(more)) }))
	mux.Handle("GET /v1/status", answers(f, func() api.Status { return f.status }))
	mux.Handle("GET /v1/sessions", answers(f, func() []api.Session { return slices.Clone(f.sessions) }))
	mux.Handle("GET /v1/leases", answers(f, func() []api.Lease { return f.leases }))
	mux.Handle("GET /v1/forwards", answers(f, func() []api.Forward { return slices.Clone(f.forwards) }))
	mux.Handle("POST /v1/forwards", api.Handle(bad, func(_ *http.Request, p api.Publish) (api.Forward, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !strings.HasPrefix(p.From, "tcp://") {
			return api.Forward{}, fmt.Errorf("%q: <b>no</b> such scheme", p.From)
		}
		made := api.Forward{From: p.From, Bound: p.From, To: p.To}
		f.forwards = append(f.forwards, made)
		return made, nil
	}))
	mux.Handle("DELETE /v1/forwards", api.Handle(bad, func(r *http.Request, _ struct{}) (api.Forward, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.forwards = slices.DeleteFunc(f.forwards, func(p api.Forward) bool { return p.From == r.URL.Query().Get("from") })
		return api.Forward{}, nil
	}))
	mux.Handle("POST /v1/reload", answers(f, func() string { return "reloaded" }))
	return mux
}

func answers[T any](f *fake, get func() T) http.Handler {
	return api.Handle(func(error) int { return 500 }, func(*http.Request, struct{}) (T, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return get(), nil
	})
}

// set changes what the gateway says.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// lead serves a bridge to the state directory until the test ends.
func lead(t *testing.T, dir string) *Bridge {
	t.Helper()
	b, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// visit opens the URL as a browser does, and returns a client with the cookie, and the key.
func visit(t *testing.T, b *Bridge) (*http.Client, string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	r, err := c.Get(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	key := regexp.MustCompile(`url=/#([A-Z2-7]{26})"`).FindSubmatch(body)
	if err != nil || r.StatusCode != http.StatusOK || key == nil {
		t.Fatalf("%s, %q, %v", r.Status, body, err)
	}
	cookie := r.Cookies()
	if len(cookie) != 1 || !cookie[0].HttpOnly || cookie[0].SameSite != http.SameSiteStrictMode || strings.Contains(string(body), cookie[0].Value) {
		t.Errorf("cookies %+v, page %s", cookie, body)
	}
	return c, string(key[1])
}

// Each request but the page's own is refused, counted, and does not come to the gateway.
// exam: H1, H2
func TestBridgeRefuses(t *testing.T) {
	f := newFake(t, nil)
	b := lead(t, f.dir)
	c, key := visit(t, b)
	own := "http://" + b.Addr().String()
	_, port, _ := net.SplitHostPort(b.Addr().String())
	type request struct {
		method, path, host string
		header             map[string]string
		noCookie, noKey    bool
		want               Reason // empty: it is answered
	}
	tests := map[string]request{
		"the page's own":         {},
		"the page itself":        {path: "/", noKey: true},
		"a script of it":         {path: "/page.js", noKey: true},
		"with its origin":        {header: map[string]string{"Origin": own, "Sec-Fetch-Site": "same-origin"}},
		"rebinding":              {host: "evil.example", want: ReasonHost},
		"rebinding with port":    {host: "evil.example:" + port, want: ReasonHost},
		"localhost":              {host: "localhost:" + port, want: ReasonHost},
		"another port":           {host: "127.0.0.1:1", want: ReasonHost},
		"the gateway's name":     {host: "ferry", want: ReasonHost},
		"rebinding, with token":  {path: "/?token=" + b.token, host: "evil.example", want: ReasonHost},
		"cross-site":             {header: map[string]string{"Origin": "http://evil.example"}, want: ReasonOrigin},
		"a page of nobody":       {header: map[string]string{"Origin": "null"}, want: ReasonOrigin},
		"another port's page":    {header: map[string]string{"Origin": "http://127.0.0.1:1"}, want: ReasonOrigin},
		"an image elsewhere":     {header: map[string]string{"Sec-Fetch-Site": "cross-site"}, want: ReasonOrigin},
		"an image, same host":    {header: map[string]string{"Sec-Fetch-Site": "same-site"}, want: ReasonOrigin},
		"no cookie":              {noCookie: true, want: ReasonCookie},
		"no cookie, page":        {path: "/", noCookie: true, want: ReasonCookie},
		"the token as cookie":    {noCookie: true, header: map[string]string{"Cookie": b.cookieName() + "=" + b.token}, want: ReasonCookie},
		"an empty cookie":        {noCookie: true, header: map[string]string{"Cookie": b.cookieName() + "="}, want: ReasonCookie},
		"no key":                 {noKey: true, want: ReasonKey},
		"a wrong key":            {noKey: true, header: map[string]string{keyHeader: b.cookie}, want: ReasonKey},
		"metrics":                {path: "/metrics", want: ReasonRoute},
		"devices":                {path: "/v1/peers", want: ReasonRoute},
		"an invitation":          {method: "POST", path: "/v1/invitations", want: ReasonRoute},
		"a reload":               {method: "POST", path: "/v1/reload", want: ReasonRoute},
		"a path in disguise":     {path: "/v1/x/..%2fpeers", want: ReasonRoute},
		"a path that goes up":    {path: "/v1/status/../peers", want: ReasonRoute},
		"an escaped path":        {path: "/v1/%73tatus", want: ReasonRoute},
		"a path with NUL":        {path: "/v1/status%00", want: ReasonRoute},
		"a long path":            {path: "/v1/" + strings.Repeat("a", 4000), want: ReasonRoute},
		"a wrong token":          {path: "/?token=" + b.key, want: ReasonToken},
		"an empty token":         {path: "/?token=", noCookie: true, want: ReasonToken},
		"a token somewhere else": {path: "/v1/status?token=" + b.token, noCookie: true, want: ReasonCookie},
		"another method":         {method: "PUT", path: "/v1/forwards", want: ReasonRoute},
		"a preflight":            {method: "OPTIONS", path: "/v1/forwards", header: map[string]string{"Origin": "http://evil.example"}, want: ReasonOrigin},
	}
	for name, tt := range tests {
		r, err := http.NewRequest(tt.method, own+"/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.path != "" {
			if r.URL, err = r.URL.Parse(own + tt.path); err != nil {
				t.Fatal(err)
			}
		}
		r.Host = tt.host
		if !tt.noKey {
			r.Header.Set(keyHeader, key)
		}
		for k, v := range tt.header {
			r.Header.Set(k, v)
		}
		client := *c
		if tt.noCookie {
			client.Jar = nil
		}
		before, asked := b.Refused(), len(f.asked)
		answer, err := client.Do(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		after, want := b.Refused(), 200
		if tt.want != "" {
			want = 403
			if len(f.asked) != asked {
				t.Errorf("%s: the gateway was asked", name)
			}
			if after[string(tt.want)] != before[string(tt.want)]+1 {
				t.Errorf("%s: counted %v, then %v; want one more of %s", name, before, after, tt.want)
			}
		}
		if answer.StatusCode != want {
			t.Errorf("%s: got %s, %.200s; want %d", name, answer.Status, body, want)
		}
		for h, v := range headers {
			if answer.Header.Get(h) != v {
				t.Errorf("%s: %s is %q", name, h, answer.Header.Get(h))
			}
		}
		for _, secret := range []string{b.token, b.cookie, b.key} {
			if strings.Contains(string(body), secret) {
				t.Errorf("%s: the answer has a secret", name)
			}
		}
	}
	for _, r := range f.asked {
		if r.Host != api.Host || r.Header.Get("Cookie")+r.Header.Get(keyHeader)+r.Header.Get("Origin") != "" {
			t.Errorf("the gateway was asked with %s, %v", r.Host, r.Header)
		}
	}
}

// What the page does comes to the gateway, and the answer back, also that the gateway is gone.
func TestBridgePasses(t *testing.T) {
	f := newFake(t, nil)
	b := lead(t, f.dir)
	c, key := visit(t, b)
	do := func(method, path, body string) (int, string) {
		r, err := http.NewRequest(method, "http://"+b.Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(keyHeader, key)
		r.Header.Set("Origin", "http://"+b.Addr().String())
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		all, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(all)
	}
	if code, body := do("POST", "/v1/forwards", `{"from":"tcp://:8080","to":"cam1:80"}`); code != 200 || len(f.forwards) != 1 {
		t.Errorf("got %d, %s", code, body)
	}
	var failure struct{ Error string }
	code, body := do("POST", "/v1/forwards", `{"from":"x","to":"cam1:80"}`)
	if err := json.Unmarshal([]byte(body), &failure); err != nil || code != 400 || failure.Error != `"x": <b>no</b> such scheme` {
		t.Errorf("got %d, %s, %v", code, body, err)
	}
	if code, body := do("POST", "/v1/forwards", `{"from":"`+strings.Repeat("x", maxBody)+`"}`); code < 400 {
		t.Errorf("a large body: got %d, %.100s", code, body)
	}
	if code, body := do("DELETE", "/v1/forwards?from=tcp%3A%2F%2F%3A8080", ""); code != 200 || len(f.forwards) != 0 {
		t.Errorf("got %d, %s", code, body)
	}
	away := lead(t, t.TempDir())
	c, key = visit(t, away)
	b = away
	if code, body := do("GET", "/v1/status", ""); code != 502 || !strings.Contains(body, "the gateway does not answer") {
		t.Errorf("got %d, %s", code, body)
	}
}

func TestParseAddr(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:0": "127.0.0.1:0", "127.8.9.1:80": "127.8.9.1:80", "localhost:8080": "127.0.0.1:8080", "[::1]:8080": "[::1]:8080",
		"[::ffff:127.0.0.1]:1": "127.0.0.1:1",
	} {
		if got, err := ParseAddr(text); err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v; want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"0.0.0.0:8080": "ssh -L 8080:", ":8080": "ssh -L", "192.168.7.1:8080": "ssh -L", "[::]:8080": "ssh -L", "gateway.example:80": "ssh -L", "[::1%lo]:80": "ssh -L",
		"127.0.0.1": "write 127.0.0.1:8088", "127.0.0.1:http": "write", "127.0.0.1:65536": "write", "": "write",
	} {
		if got, err := ParseAddr(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v; want %q", text, got, err, want)
		}
	}
}

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

// A slow is a gateway that answers a byte a second, for a minute.
type slow struct{}

func (slow) RoundTrip(r *http.Request) (*http.Response, error) {
	out, in := io.Pipe()
	go func() { // ends with the minute, or with the reader
		for range 60 {
			select {
			case <-r.Context().Done():
				in.CloseWithError(r.Context().Err())
				return
			case <-time.After(time.Second):
			}
			if _, err := in.Write([]byte("x")); err != nil {
				return
			}
		}
		in.Close()
	}()
	return &http.Response{StatusCode: 200, Body: out, Header: http.Header{}, Request: r}, nil
}

// A capture may take its time, as long as something comes; nothing else may.
// exam: H3
func TestSlowAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		path     string
		min, max time.Duration
	}{
		"a capture": {capture, time.Minute, time.Minute + time.Second},
		"a status":  {"/v1/status", 0, timeout + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conns := make(pipes)
				log := slog.New(slog.DiscardHandler)
				b := newBridge(conns, slow{}, log)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- b.Serve(ctx) }()
				here, there := net.Pipe()
				ended := make(chan struct{})
				conns <- watched{there, ended}
				go func() { // ends with the connection
					_, _ = fmt.Fprintf(here, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s=%s\r\n%s: %s\r\nConnection: close\r\n\r\n", tt.path, b.host, b.cookieName(), b.cookie, keyHeader, b.key)
					_, _ = io.Copy(io.Discard, here)
				}()
				began := time.Now()
				<-ended
				if took := time.Since(began); took < tt.min || took > tt.max {
					t.Errorf("it took %s; want %s to %s", took, tt.min, tt.max)
				}
				here.Close()
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				time.Sleep(2 * time.Minute) // whoever wrote has seen the end
			})
		})
	}
}

// A quiet gateway has captured nothing for long when it ends the capture.
type quiet struct{}

func (quiet) RoundTrip(r *http.Request) (*http.Response, error) {
	out, in := io.Pipe()
	go func() { // ends with the request
		_, _ = io.WriteString(in, "header")
		select {
		case <-r.Context().Done():
		case <-time.After(time.Minute):
		}
		in.Close()
	}()
	return &http.Response{StatusCode: 200, Body: out, Header: http.Header{}, Trailer: http.Header{"Ferry-Captured": {"0"}}, ContentLength: -1, Request: r}, nil
}

// A capture in which nothing came for longer than a piece may take is complete, too.
func TestQuietCaptureIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(pipes)
		b := newBridge(conns, quiet{}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Serve(ctx) }()
		here, there := net.Pipe()
		conns <- there
		_, _ = fmt.Fprintf(here, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s=%s\r\n%s: %s\r\n\r\n", capture, b.host, b.cookieName(), b.cookie, keyHeader, b.key)
		answer, err := http.ReadResponse(bufio.NewReader(here), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(answer.Body); string(body) != "header" || err != nil || answer.Trailer.Get("Ferry-Captured") != "0" {
			t.Errorf("got %q, %v, %v", body, answer.Trailer, err)
		}
		here.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute) // whoever wrote has seen the end
	})
}

// A watched connection tells when it is closed.
type watched struct {
	net.Conn
	closed chan struct{}
}

func (w watched) Close() error {
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return w.Conn.Close()
}
