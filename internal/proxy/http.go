package proxy

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"syscall"
	"time"
)

// maxHeader is how long the header of a request may be, bytes.
const maxHeader = 64 << 10

// A Dial connects to host:port in the tunnel, as net.Dialer does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// ServeHTTP serves an HTTP proxy on l until ctx is done, and returns nil then: CONNECT for all, and requests with a whole http:// URL, which
// it makes itself by dial.
func ServeHTTP(ctx context.Context, l net.Listener, connect Connect, dial Dial, counts *Counts, log *slog.Logger) error {
	s := &server{connect: connect, counts: counts, log: log}
	transport := &http.Transport{DialContext: dial, MaxIdleConns: 32, IdleConnTimeout: time.Minute, DisableCompression: true}
	defer transport.CloseIdleConnections()
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, err.Error(), statusOf(err))
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	srv := &http.Server{
		ReadHeaderTimeout: helloTime, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader, ErrorLog: forward.ErrorLog, ConnState: s.track,
		BaseContext: func(net.Listener) context.Context { return ctx }, // so that what was upgraded ends, too
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			counted := &taken{ResponseWriter: w}
			w = counted
			defer func() {
				if counted.over {
					s.left()
				}
			}()
			switch {
			case r.Method == http.MethodConnect:
				s.tunnel(ctx, w, r)
			case r.URL.Scheme != "http":
				http.Error(w, "this is a proxy: set it as http_proxy and https_proxy", http.StatusBadRequest)
			default:
				forward.ServeHTTP(w, r)
			}
		}),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(l)
	_ = srv.Close()
	s.all.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// track counts programs until they have been served, and closes those that are too many.
func (s *server) track(program net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.all.Add(1)
		if s.count.Add(1) > maxConns {
			s.counts.add(countFull)
			_ = program.Close()
		}
	case http.StateClosed: // of one that was taken over the handler says when it ends: a tunnel, or an upgrade
		s.left()
	}
}

// left notes that a program was served.
func (s *server) left() {
	s.count.Add(-1)
	s.all.Done()
}

// taken notes that a connection was taken from the HTTP server, which does not say then when it ends.
type taken struct {
	http.ResponseWriter
	over bool
}

// Unwrap is for http.ResponseController.
func (t *taken) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Hijack implements http.Hijacker.
func (t *taken) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.over = err == nil
	return conn, buffered, err
}

// tunnel serves CONNECT (RFC 9110, section 9.3.6).
func (s *server) tunnel(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	dialling, cancel := context.WithTimeout(ctx, dialTime)
	half, err := s.connect(dialling, r.Host)
	cancel()
	if err != nil {
		s.log.Debug("proxy", "addr", r.Host, "err", err)
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	program, first, err := hijack(w)
	if err != nil {
		_ = half.Close()
		return
	}
	end := context.AfterFunc(ctx, func() { _ = program.Close() })
	defer end()
	if _, err := program.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		_, _ = half.Close(), program.Close()
		return
	}
	half.Join(program, first)
}

// hijack takes a connection from the HTTP server, with what it has read beyond the request.
func hijack(w http.ResponseWriter) (*net.TCPConn, []byte, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	program, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil, nil, errors.ErrUnsupported
	}
	first, err := rest(buffered.Reader)
	return program, first, err
}

func rest(r *bufio.Reader) ([]byte, error) { return r.Peek(r.Buffered()) }

func statusOf(err error) int {
	switch {
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	default:
		return http.StatusBadGateway
	}
}
