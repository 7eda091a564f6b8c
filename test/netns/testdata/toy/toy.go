// Package toy is a carrier to be copied: what docs/carriers.md says about adding one, done. It is built by a test alone, with a
// line in each registry.
//
//	TCP   [base64 of up to 3 KiB of the stream]\n[...]\n     in both directions
//
// Keys are not its affair: Ferry's handshake (package tls) goes through it.
//
// The rules are:
//
//   - A line is at most maxLine bytes long, and takes no memory beyond that before it ends.
//   - No goroutine is started here. Close ends what waits.
package toy

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"

	"ferry/internal/carrier"
)

const (
	maxPart = 3 << 10
	maxLine = maxPart/3*4 + 1
)

// ErrLine is returned for what is no line of this carrier.
var ErrLine = errors.New("not a line of base64")

// A conn is the stream in the lines of a connection. It hides the descriptor of that one, as a Stream would write there
// directly.
type conn struct {
	net.Conn
	lines *bufio.Reader
	out   []byte // of the goroutine that writes
	plain []byte // memory of the goroutine that reads
	rest  []byte // of a line that was read in part
}

func newConn(c net.Conn) net.Conn {
	return &conn{Conn: c, lines: bufio.NewReaderSize(c, maxLine)}
}

func (c *conn) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		line, err := c.lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return 0, fmt.Errorf("%w: longer than %d bytes", ErrLine, maxLine)
		} else if err != nil {
			return 0, err
		}
		if c.plain, err = base64.StdEncoding.AppendDecode(c.plain[:0], line[:len(line)-1]); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrLine, err)
		}
		c.rest = c.plain
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *conn) Write(b []byte) (n int, err error) {
	for n < len(b) {
		part := b[n:min(n+maxPart, len(b))]
		c.out = append(base64.StdEncoding.AppendEncode(c.out[:0], part), '\n')
		if _, err := c.Conn.Write(c.out); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// A listener accepts connections in lines.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

// Listen serves an endpoint toy://[host]:port.
func Listen(ctx context.Context, e carrier.Endpoint) (net.Listener, error) {
	l, err := carrier.TCPListenConfig().Listen(ctx, "tcp", net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return listener{l}, nil
}

// Dial connects to an endpoint toy://host:port, with the sockets of the opener.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	c, err := carrier.DialTCP(ctx, e, o)
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}
