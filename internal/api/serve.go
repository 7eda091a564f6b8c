package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"

	"ferry/internal/carrier"
	"ferry/internal/carrier/unix"
	"ferry/internal/durable"
)

// Bounds for whoever speaks to the socket.
const (
	maxConns   = 64
	maxHeaders = 8 << 10
	maxBody    = 1 << 20
	timeout    = 10 * time.Second
	maxRate    = 1000 // connections a second: more would take the cores from packets
)

// Host is the name that requests have to name: no page in a browser can have it.
const Host = "ferry"

// Listen makes the socket in the state directory, which has to stay open until the listener is closed.
func Listen(ctx context.Context, dir *durable.Dir) (net.Listener, error) {
	path := filepath.Join(dir.Name(), SocketName)
	l, err := unix.Listen(ctx, carrier.Endpoint{Scheme: "unix", Path: path})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	// By its path it may be out of reach when it is to be removed.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return bounded(&owners{l, dir}), nil
}

// bounded accepts as many connections as there may be, at once and in a second. The others wait in the kernel.
func bounded(l net.Listener) net.Listener {
	return netutil.LimitListener(&paced{l, rate.NewLimiter(maxRate, maxConns)}, maxConns)
}

type paced struct {
	net.Listener
	limiter *rate.Limiter
}

func (l *paced) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		time.Sleep(l.limiter.Reserve().Delay())
	}
	return conn, err
}

// owners accepts connections of root and of the user who runs this process.
type owners struct {
	net.Listener
	dir *durable.Dir
}

func (l *owners) Close() error {
	_ = l.dir.Remove(SocketName)
	return l.Listener.Close()
}

func (l *owners) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := unix.From(conn); err == nil && slices.Contains([]int{0, os.Geteuid()}, int(uid)) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// Serve answers requests to the socket until ctx is done.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	return ServeBounded(ctx, l, guard(h, func(name string) bool { return name == Host }), log)
}

// ListenOpen listens on host:port, for as many connections at once as the control socket has.
func ListenOpen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, carrier.Family("tcp", addr), addr)
	if err != nil {
		return nil, err
	}
	return bounded(l), nil
}

// ServeOpen answers requests of everybody until ctx is done. They have to name an address: a name may be one
// that a web page has made lead here.
func ServeOpen(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	return ServeBounded(ctx, l, guard(h, func(name string) bool {
		if h, _, err := net.SplitHostPort(name); err == nil {
			name = h
		}
		_, err := netip.ParseAddr(name)
		return err == nil || name == "localhost"
	}), log)
}

// ServeBounded answers requests until ctx is done, with the bounds of this package on headers and times. Who may ask is
// up to h.
func ServeBounded(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: h, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: timeout, MaxHeaderBytes: maxHeaders,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = s.Close(); close(stopped) })
	err := s.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	return err
}

// guard refuses what a browser was led to send, and bounds the body.
func guard(h http.Handler, isUs func(host string) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isUs(r.Host) || r.Header.Get("Origin") != "" {
			Fail(w, http.StatusForbidden, errors.New("name this host, as "+Host+" by the socket or as its address, and no origin"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h.ServeHTTP(w, r)
	})
}

// Handle returns a handler that decodes a request's body, unless In is struct{}, and encodes what f
// returns. status says which errors of f are which.
func Handle[In, Out any](status func(error) int, f func(*http.Request, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		if _, none := any(in).(struct{}); !none {
			d := json.NewDecoder(r.Body)
			d.DisallowUnknownFields()
			if err := d.Decode(&in); err != nil {
				Fail(w, http.StatusBadRequest, err)
				return
			}
		}
		out, err := f(r, in)
		if err != nil {
			Fail(w, status(err), err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	}
}

// Fail answers with an error.
func Fail(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(failure{short(err.Error())})
}

// maxError is the length of an error in an answer: a line for people, though it quotes what was asked.
const maxError = 256

// short leaves out the middle of a long text: its start says what failed, and its end why.
func short(text string) string {
	const gap, head = "…", maxError / 2
	if len(text) <= maxError {
		return text
	}
	tail := text[len(text)-(maxError-head-len(gap)):]
	return strings.ToValidUTF8(text[:head], "") + gap + strings.ToValidUTF8(tail, "")
}

type failure struct {
	Error string `json:"error"`
}
