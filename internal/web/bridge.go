package web

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"ferry/internal/api"
)

// Bounds of the Bridge, besides those of package api.
const (
	maxBody = 64 << 10         // of a request, bytes
	timeout = 10 * time.Second // for an answer; for each piece of a long one
)

// keyHeader names the key of the page in its requests.
const keyHeader = "Ferry-Key"

// capture is the one answer that may take long.
const capture = "/v1/capture"

// passed are the requests that the page makes.
var passed = func() map[string]bool {
	all := map[string]bool{
		"GET /v1/routes": true, "GET /v1/status": true, "GET /v1/sessions": true, "GET /v1/leases": true,
		"GET /v1/forwards": true, "POST /v1/forwards": true, "DELETE /v1/forwards": true,
		"GET " + capture: true,
	}
	for _, p := range Patterns() {
		all[strings.TrimSuffix(p, "{$}")] = true
	}
	return all
}()

// headers of every answer. The policy lets the page load its own files and ask its own host, and makes a mistake in it harmless:
// no text becomes a script or a style.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	"Cache-Control":                "no-store",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
}

// A Reason says why the Bridge refuses a request.
type Reason string

// Reasons.
const (
	ReasonHost   Reason = "host"   // another name than that of the URL
	ReasonOrigin Reason = "origin" // led here by a page of somebody else
	ReasonToken  Reason = "token"  // a token that is wrong
	ReasonCookie Reason = "cookie" // no cookie, or a wrong one
	ReasonKey    Reason = "key"    // the cookie without the key of the page
	ReasonRoute  Reason = "route"  // nothing that the page asks for
)

var explained = map[Reason]string{
	ReasonHost:   "open the URL as 'vpnsrv web' has printed it, with the same port also through ssh -L",
	ReasonOrigin: "only the gateway's own page may ask here",
	ReasonToken:  "the token is wrong: open the URL that 'vpnsrv web' has printed last",
	ReasonCookie: "open the URL that 'vpnsrv web' has printed",
	ReasonKey:    "this tab has no key: open the URL that 'vpnsrv web' has printed",
	ReasonRoute:  "the page has no such request: use vpnsrv, or the control socket",
}

// A Bridge leads from a port of this host to the control socket of a gateway.
type Bridge struct {
	l                  net.Listener
	host               string // which requests have to name
	token, cookie, key string
	proxy              *httputil.ReverseProxy
	log                *slog.Logger

	mu      sync.Mutex
	refused map[string]uint64 // by Reason
}

// Listen opens addr, which is of ParseAddr, for a bridge to the gateway that keeps its state in stateDir.
func Listen(ctx context.Context, addr netip.AddrPort, stateDir string, log *slog.Logger) (*Bridge, error) {
	l, err := api.ListenOpen(ctx, addr.String())
	if err != nil {
		return nil, err
	}
	return newBridge(l, api.Transport(stateDir), log), nil
}

func newBridge(l net.Listener, gateway http.RoundTripper, log *slog.Logger) *Bridge {
	b := &Bridge{l: l, host: l.Addr().String(), token: rand.Text(), cookie: rand.Text(), key: rand.Text(), log: log, refused: map[string]uint64{}}
	b.proxy = &httputil.ReverseProxy{
		Rewrite:       forwarded,
		Transport:     gateway,
		FlushInterval: -1, // what was captured is to be seen at once
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			api.Fail(w, http.StatusBadGateway, fmt.Errorf("the gateway does not answer: %w", err))
		},
	}
	return b
}

// ParseAddr reads host:port, where host is localhost or an address of the loopback interface, and port 0 stands for any.
// It refuses addresses that others can reach.
func ParseAddr(text string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address: write 127.0.0.1:8088, or 127.0.0.1:0 for any port", text)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	a, err := netip.ParseAddr(host)
	if err != nil || !a.IsLoopback() || a.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%s is not of the loopback interface: listen on 127.0.0.1:%s, and reach it from elsewhere by  ssh -L %s:127.0.0.1:%s THIS-HOST",
			text, port, port, port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(number)), nil
}

// Addr is where the bridge listens.
func (b *Bridge) Addr() net.Addr { return b.l.Addr() }

// URL opens the page. Whoever has it may do what the page can.
func (b *Bridge) URL() string { return "http://" + b.host + "/?token=" + b.token }

// Serve answers until ctx is done.
func (b *Bridge) Serve(ctx context.Context) error { return api.ServeBounded(ctx, b.l, b, b.log) }

// Close is for a bridge that was not served.
func (b *Bridge) Close() error { return b.l.Close() }

// Refused are the requests that were refused, by reason.
func (b *Bridge) Refused() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.refused)
}

// ServeHTTP implements http.Handler.
func (b *Bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range headers {
		w.Header().Set(name, value)
	}
	if reason := b.judge(r); reason != "" {
		b.mu.Lock()
		b.refused[string(reason)]++
		b.mu.Unlock()
		b.log.Debug("refused", "reason", reason, "from", r.RemoteAddr)
		api.Fail(w, http.StatusForbidden, errors.New(explained[reason]))
		return
	}
	if isArrival(r) {
		b.welcome(w)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if r.URL.Path == capture {
		p := &patient{w} // the gateway ends a capture, or the browser by leaving
		w = p
		defer p.extend() // for the end of the answer, which net/http writes
	} else {
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		r = r.WithContext(ctx)
	}
	b.proxy.ServeHTTP(w, r)
}

// judge returns why a request is refused; empty: it is not.
func (b *Bridge) judge(r *http.Request) Reason {
	origin, site := r.Header["Origin"], r.Header.Get("Sec-Fetch-Site")
	switch {
	case r.Host != b.host:
		return ReasonHost
	case len(origin) > 1 || len(origin) == 1 && origin[0] != "http://"+b.host:
		return ReasonOrigin
	case isArrival(r): // from a terminal, a mail, a chat: the token is what counts
		if !same(r.URL.Query().Get("token"), b.token) {
			return ReasonToken
		}
		return ""
	case site != "" && site != "same-origin" && site != "none":
		return ReasonOrigin
	}
	if c, err := r.Cookie(b.cookieName()); err != nil || !same(c.Value, b.cookie) {
		return ReasonCookie
	}
	switch {
	case !passed[r.Method+" "+r.URL.EscapedPath()]:
		return ReasonRoute
	case strings.HasPrefix(r.URL.Path, "/v1/") && !same(r.Header.Get(keyHeader), b.key):
		return ReasonKey
	}
	return ""
}

// isArrival tells whether a request is for the URL that was printed.
func isArrival(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.EscapedPath() == "/" && r.URL.Query().Has("token")
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// cookieName has the port in it: browsers keep cookies of all ports together.
func (b *Bridge) cookieName() string {
	_, port, _ := net.SplitHostPort(b.host)
	return "ferry-" + port
}

// arrival leads on by a page and not by a redirect: who comes by a link of another site would be sent on without the cookie
// that he has just got, for that is SameSite=Strict.
const arrival = `<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=/#%s"><title>Ferry</title></html>
`

// welcome turns the token into a cookie and a key. The key is in the fragment, which browsers send to nobody.
func (b *Bridge) welcome(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: b.cookieName(), Value: b.cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = fmt.Fprintf(w, arrival, b.key)
}

// forwarded makes the request of the gateway: nothing goes on that only the bridge has to know.
func forwarded(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", api.Host, api.Host
	r.Out.Header = http.Header{}
}

// A patient writer gives the browser time for each piece of an answer, not for all of it.
type patient struct{ http.ResponseWriter }

func (p *patient) extend() {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(timeout))
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	p.extend()
	return p.ResponseWriter.Write(b)
}

// FlushError is for http.ResponseController. The proxy flushes also when nothing has come for long.
func (p *patient) FlushError() error {
	p.extend()
	return http.NewResponseController(p.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
