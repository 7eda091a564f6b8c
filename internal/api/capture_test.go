package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseCapture(t *testing.T) {
	want := Capture{Peer: "cam1", Filter: "tcp port 80 or 443", Snaplen: 96, Packets: 7, Bytes: 1 << 40, Seconds: 1.5}
	q, err := url.ParseQuery(want.query())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseCapture(q); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := ParseCapture(url.Values{}); err != nil || got != (Capture{}) {
		t.Errorf("nothing: got %+v, %v", got, err)
	}
	for _, text := range []string{"second=1", "bytes=-1", "bytes=1k", "seconds=-1", "seconds=NaN", "seconds=Inf", "seconds=1e9", "snaplen=x"} {
		q, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(text, "=")
		if _, err := ParseCapture(q); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// serving answers requests to a pipe by h, in a bubble of synctest, until end.
func serving(t *testing.T, h http.HandlerFunc) (conn net.Conn, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conns, done := make(pipes), make(chan error, 1)
	go func() { done <- Serve(ctx, conns, h, slog.New(slog.DiscardHandler)) }()
	a, b := net.Pipe()
	conns <- b
	if _, err := io.WriteString(a, "GET /v1/capture HTTP/1.1\r\nHost: ferry\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return a, func() {
		a.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A capture goes on for longer than any other answer may, though nothing passes for long, and says at its end what it has.
func TestSendForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, end := serving(t, func(w http.ResponseWriter, r *http.Request) {
			Send(w, 7, func(write func([]byte) error) (uint64, uint64, error) {
				for range 3 {
					select {
					case <-time.After(20 * timeout):
					case <-r.Context().Done():
						return 0, 0, r.Context().Err()
					}
					if err := write([]byte("packet ")); err != nil {
						return 0, 0, err
					}
				}
				return 3, 4, nil
			})
		})
		defer end()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &Recording{answer: answer, number: answer.Header.Get(headerCapture)}
		all, err := io.ReadAll(r)
		if err != nil || string(all) != "packet packet packet " || r.number != "7" {
			t.Errorf("got %q, %v, number %s", all, err, r.number)
		}
		if captured, dropped, err := r.Counts(); captured != 3 || dropped != 4 || err != nil {
			t.Errorf("got %d, %d, %v", captured, dropped, err)
		}
	})
}

// Who goes away ends his capture at once, and who takes nothing any more after a minute.
func TestSendToNobody(t *testing.T) {
	for name, reads := range map[string]bool{"gone": true, "stalled": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				conn, end := serving(t, func(w http.ResponseWriter, r *http.Request) {
					Send(w, 1, func(write func([]byte) error) (_, _ uint64, err error) {
						defer func() { ended <- err }()
						if err := write([]byte("packet")); err != nil {
							return 0, 0, err
						}
						<-r.Context().Done()
						return 0, 0, r.Context().Err()
					})
				})
				defer end()
				began := time.Now()
				if reads {
					if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Hour)
					conn.Close()
				}
				err := <-ended
				if took := time.Since(began); reads && (!errors.Is(err, context.Canceled) || took != time.Hour) || !reads && (err == nil || took != stallTime) {
					t.Errorf("ended after %s: %v", took, err)
				}
			})
		})
	}
}
