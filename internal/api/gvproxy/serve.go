package gvproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"ferry/internal/api/gvproxy/endpoint"
	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
	"ferry/internal/l2port"
)

// Bounds for whoever speaks to a socket.
const (
	maxConns   = 64
	maxEach    = 8 // of one client inside
	maxHeaders = 8 << 10
	maxBody    = 1 << 20
	timeout    = 10 * time.Second
)

// ways are those by which clients of the API come.
var ways = map[string]struct {
	listen func(context.Context, carrier.Endpoint) (net.Listener, error)
	from   func(net.Conn) (uint32, error) // the context ID or the user ID at the other end; nil: none
}{
	"unix":  {unix.ListenPrivate, unix.From},
	"vsock": {vsock.Listen, vsock.From},
	"tcp":   {tcp.Listen, nil},
}

// A Listener is a place where the API is served.
type Listener struct {
	net.Listener
	admits func(net.Conn) bool
	names  bool          // requests have to name an address, for a browser may have been led here
	room   chan struct{} // has an element for each connection
	done   chan struct{} // closed by Close
	close  func()
	alien  func() // is called for each that may not come

	mu   sync.Mutex         // guards what follows
	each map[netip.Addr]int // connections of each client; nil: they are not counted
}

// Listen opens an endpoint. A unix socket is for the user of this process only.
func Listen(ctx context.Context, e endpoint.Endpoint) (*Listener, error) {
	way := ways[e.Scheme]
	l, err := way.listen(ctx, e.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("gvproxy's API: %w", err)
	}
	made := newListener(l)
	made.names = e.Scheme == "tcp"
	if len(e.From) > 0 {
		made.admits = func(c net.Conn) bool {
			id, err := way.from(c)
			return err == nil && e.Admits(id)
		}
	}
	return made, nil
}

// Inside returns a place where clients ask, on the gateway's own address.
func Inside(l net.Listener) *Listener {
	made := newListener(l)
	made.names, made.each = true, map[netip.Addr]int{}
	return made
}

func newListener(l net.Listener) *Listener {
	made := &Listener{
		Listener: l, admits: func(net.Conn) bool { return true }, alien: func() {},
		room: make(chan struct{}, maxConns), done: make(chan struct{}),
	}
	made.close = sync.OnceFunc(func() { close(made.done) })
	return made
}

// Plugs returns the machines that come by a listener.
func (l *Listener) Plugs() *Plugs {
	p := &Plugs{at: plugAddr{l.Addr()}, arrive: make(chan *l2port.Arrival, maxArrivals), done: make(chan struct{})}
	p.closed = sync.OnceFunc(func() { close(p.done) })
	return p
}

// plugAddr is where machines come by HTTP.
type plugAddr struct{ net.Addr }

func (a plugAddr) Network() string { return "gvproxy+" + a.Addr.Network() }

// Accept waits for a connection that may come, as long as there are as many as there may be.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.room
			return nil, err
		}
		if l.admits(c) {
			if leave, ok := l.enter(c); ok {
				return &visitor{Conn: c, leave: sync.OnceFunc(func() { leave(); <-l.room })}, nil
			}
		}
		l.alien()
		_ = c.Close()
	}
}

// enter makes room for a connection of a client, until leave is called; false: it has as many as it may.
func (l *Listener) enter(c net.Conn) (leave func(), ok bool) {
	if l.each == nil {
		return func() {}, true
	}
	at, err := netip.ParseAddrPort(fmt.Sprint(c.RemoteAddr())) // which may be nil when it has gone already
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.each[at.Addr()] >= maxEach {
		return nil, false
	}
	l.each[at.Addr()]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.each[at.Addr()]--; l.each[at.Addr()] == 0 {
			delete(l.each, at.Addr())
		}
	}, true
}

// Close implements net.Listener. It may be called more than once.
func (l *Listener) Close() error {
	l.close()
	return l.Listener.Close()
}

// A visitor is a connection that has a place at its listener until it is closed, or taken.
type visitor struct {
	net.Conn
	leave func()
}

func (v *visitor) Close() error {
	defer v.leave()
	return v.Conn.Close()
}

// servingKey is that of a serving in the context of a request.
type servingKey struct{}

// A serving is what requests find in their context: when Serve ends, and those whom it waits for. The context of a request ends when its connection has nothing more
// to say, which is no end of a tunnel.
type serving struct {
	ctx   context.Context
	conns sync.WaitGroup
}

// Serve answers requests until ctx is done, and waits for all.
func (a *API) Serve(ctx context.Context, l *Listener, h http.Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	own := &serving{ctx: ctx}
	defer own.conns.Wait()
	defer cancel()
	l.alien = func() { a.count.forbidden.Add(1) }
	s := &http.Server{
		Handler: a.guard(l, h), ErrorLog: slog.NewLogLogger(a.c.Log.Handler(), slog.LevelDebug),
		ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: timeout, MaxHeaderBytes: maxHeaders,
		BaseContext: func(net.Listener) context.Context { return context.WithValue(ctx, servingKey{}, own) },
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				own.conns.Add(1)
			case http.StateHijacked, http.StateClosed:
				own.conns.Done()
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		_ = s.Close()
		return err
	}
	return nil
}

// guard refuses what a browser was led to send, and bounds the body.
func (a *API) guard(l *Listener, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" || l.names && !isAddress(r.Host) {
			a.count.forbidden.Add(1)
			http.Error(w, "name an address of this host, and no origin", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h.ServeHTTP(w, r)
	})
}

// isAddress tells whether a Host is one that no web page can have: an address, localhost, or a name below internal, which is nobody's on the Internet. A program that
// speaks HTTP by itself may name none.
func isAddress(name string) bool {
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil || name == "" || name == "localhost" || strings.HasSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), ".internal")
}

var errHijack = errors.New("webserver doesn't support hijacking")

// take takes the connection of a request over, with what came behind it. Its place at the listener is free then; s.conns.Done is to be called when the connection was
// closed, or is somebody else's.
func take(w http.ResponseWriter, r *http.Request) (s *serving, conn net.Conn, first []byte, err error) {
	h, ok := w.(http.Hijacker)
	s, waits := r.Context().Value(servingKey{}).(*serving)
	if !ok || !waits {
		return nil, nil, nil, errHijack
	}
	s.conns.Add(1) // while that of the connection is there still
	conn, buf, err := h.Hijack()
	if err != nil {
		s.conns.Done()
		return nil, nil, nil, err
	}
	if n := buf.Reader.Buffered(); n > 0 {
		first = make([]byte, n)
		_, _ = buf.Reader.Read(first) // which are there
	}
	if v, ok := conn.(*visitor); ok {
		v.leave()
		conn = v.Conn
	}
	return s, conn, first, nil
}
