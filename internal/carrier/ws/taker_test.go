package ws

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestTaker: a request for another protocol goes to who takes that, with what came behind its head, and with the state of the
// outer TLS; the time for an answer does not bound what follows.
func TestTaker(t *testing.T) {
	errTaker := errors.New("not today")
	for _, scheme := range []string{"ws", "wss"} {
		for _, tt := range []struct {
			name, token string
			err         error
			want        string // the first words of what the client reads
		}{
			{"taken", "Other", nil, "yes\nbehind the head"},
			{"refused by the taker", "other", errTaker, ""},
			{"a protocol that nobody takes", "another", ErrRequest, "HTTP/1.1 404 "},
		} {
			t.Run(scheme+" "+tt.name, func(t *testing.T) {
				c := certificate(t)
				served := make(chan error, 1)
				at := listen(t, func(conn net.Conn) {
					others := Takers{"other": func(conn net.Conn, r *http.Request) (net.Conn, error) {
						if (r.TLS != nil) != (scheme == "wss") {
							t.Errorf("the state of TLS is %v", r.TLS)
						}
						if tt.err != nil {
							return nil, tt.err
						}
						_, err := io.WriteString(conn, "yes\n")
						return conn, err
					}}
					served <- take(t.Context(), conn, c, scheme, others)
				})
				conn, err := net.Dial("tcp", at.String())
				if err != nil {
					t.Fatal(err)
				}
				if scheme == "wss" {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nbehind the head", tt.token)
				got, _ := io.ReadAll(conn)
				if !strings.HasPrefix(string(got), tt.want) {
					t.Errorf("read %q, want %q", got, tt.want)
				}
				if err := <-served; !errors.Is(err, tt.err) {
					t.Errorf("the gateway has %v, want %v", err, tt.err)
				}
			})
		}
	}
}

// take accepts a connection, and sends back what it reads first, later than an answer may take.
func take(ctx context.Context, conn net.Conn, c *tls.Config, scheme string, others Takers) error {
	accept := Accept
	if scheme == "wss" {
		accept = func(ctx context.Context, conn net.Conn, path string, others Takers) (net.Conn, error) {
			return AcceptTLS(ctx, conn, path, c, others)
		}
	}
	s, err := accept(ctx, conn, "/ferry", others)
	if err != nil {
		return err
	}
	defer s.Close()
	words, err := bufio.NewReaderSize(s, 16).Peek(len("behind the head"))
	if err != nil {
		return err
	}
	time.Sleep(answerTime + 100*time.Millisecond) // the test is that nothing happens
	_, err = s.Write(words)
	return err
}
