package gvproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/l2port/ether"
)

// /tunnel says OK before there is a connection, and carries both directions and their ends.
func TestTunnel(t *testing.T) {
	l := newLab(t)
	port := l.echo(clients[0])
	conn, _ := l.dial(fmt.Sprintf("POST /tunnel?ip=127.0.0.2&port=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", port))
	ok := make([]byte, 2)
	if _, err := io.ReadFull(conn, ok); err != nil || string(ok) != "OK" {
		t.Fatalf("got %q, %v", ok, err)
	}
	_, _ = io.WriteString(conn, "there")
	_ = conn.(*net.UnixConn).CloseWrite()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "hello there" {
		t.Errorf("got %q, %v", b, err)
	}
	l.slow.Store(true) // so the end of its direction comes first: who has nothing more to say still hears
	if got := says(t, "unix", l.socket, fmt.Sprintf("POST /tunnel?ip=127.0.0.2&port=%d HTTP/1.1\r\nHost: x\r\n\r\n", port)); got != "OKhello " {
		t.Errorf("half-closed at once: got %q", got)
	}
	if got := says(t, "unix", l.socket, fmt.Sprintf("POST /tunnel?ip=127.0.0.2&port=%d HTTP/1.1\r\nHost: x\r\n\r\n", freePort(t))); got != "OK" {
		t.Errorf("nobody there: got %q", got)
	}
}

// gvproxy v0.8.9 loses what comes in the same segment as the request.
func TestPipelinedTunnelLosesBytes(t *testing.T) {
	l := newLab(t)
	port := l.echo(clients[0])
	if got := says(t, "unix", l.socket, fmt.Sprintf("POST /tunnel?ip=127.0.0.2&port=%d HTTP/1.1\r\nHost: x\r\n\r\nat once", port)); got != "OKhello at once" {
		t.Errorf("got %q", got)
	}
}

// There are as many tunnels as there may be, and those free the places of their connections: the API still answers.
func TestTunnelsAreBounded(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Tunnels = maxConns + 1 })
	port := l.echo(clients[0])
	request := fmt.Sprintf("POST /tunnel?ip=127.0.0.2&port=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", port)
	for i := range maxConns + 1 {
		_, r := l.dial(request)
		if b, err := r.Peek(8); err != nil || string(b) != "OKhello " {
			t.Fatalf("tunnel %d: got %q, %v", i, b, err)
		}
	}
	if got := says(t, "unix", l.socket, request); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("one too many: %q", got)
	}
	if c := l.api.Counts(); c["tunnels"] != maxConns+1 || c["tunnels_refused"] != 1 {
		t.Errorf("counted %v", c)
	}
}

// whoHas asks for the gateway's MAC.
var whoHas = []byte("\x2a\x00\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x52\x54\x00\x00\x00\x01\x0a\x00\x07\x07\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x01")

// answering answers a machine as a gateway does: it echoes keepalives.
func (l *lab) answering() {
	l.t.Helper()
	a, err := l.plugs.Accept()
	if err != nil {
		l.t.Error(err)
		return
	}
	link := a.Link(ether.Config{Gateway: netip.MustParseAddr("10.0.0.1"), Pool: netip.MustParsePrefix("10.0.0.0/16"), MTU: 1500})
	l.t.Cleanup(func() { _ = link.Close() })
	go func() { // ends with the link
		for {
			buf, start, end, err := link.Fill()
			if err != nil {
				return
			}
			if err := link.Write(append([]byte(nil), buf[start:end]...), func() {}); err != nil {
				return
			}
			link.Consume(end - start)
		}
	}()
}

func (l *lab) answered(conn net.Conn) {
	l.t.Helper()
	got := make([]byte, len(whoHas))
	if _, err := io.ReadFull(conn, got); err != nil || !strings.HasPrefix(string(got), "\x2a\x00\x52\x54\x00\x00\x00\x01\x5a\x94\xef\xe4\x0c\xdd\x08\x06") {
		l.t.Errorf("got %x, %v", got, err)
	}
}

// counted waits until so many machines are counted, which are so when they were handed on, and may have been served by then.
func (l *lab) counted(machines, refused uint64) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		switch c := l.api.Counts(); {
		case c["machines"] == machines && c["machines_refused"] == refused:
			return
		case time.Now().After(end):
			l.t.Fatalf("counted %v, want %d and %d", c, machines, refused)
		}
	}
}

const connectRequest = "POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\r\n" // as gvforwarder writes it

// gvproxy v0.8.9 loses frames that come in the same segment as the request, and takes what follows for a length.
func TestPipelinedConnectLosesFrames(t *testing.T) {
	l := newLab(t)
	for _, split := range []bool{true, false} {
		var conn net.Conn
		if split {
			conn, _ = l.dial(connectRequest)
			l.answering()
			_, _ = conn.Write(whoHas)
		} else {
			conn, _ = l.dial(connectRequest + string(whoHas))
			l.answering()
		}
		l.answered(conn)
		_, _ = conn.Write(whoHas)
		l.answered(conn)
	}
	l.counted(2, 0)
}

// gvproxy v0.8.9: a frame below 12 bytes panics with a lock held, and the network of all machines stands still for good.
func TestRuntFrameFreezesTheNetwork(t *testing.T) {
	l := newLab(t)
	one, _ := l.dial(connectRequest + "\x05\x00abcde" + "\x00\x00" + string(whoHas))
	l.answering()
	l.answered(one)
	two, _ := l.dial(connectRequest + string(whoHas))
	l.answering()
	l.answered(two)
}

// Machines do not come by where /connect is not served, nor more of them than are taken; and those that wait are let go at the end.
func TestPlugsAreBounded(t *testing.T) {
	l := newLab(t)
	other := filepath.Join(t.TempDir(), "services.sock")
	l.serve("unix://"+other, false)
	if got := says(t, "unix", other, connectRequest); !strings.HasPrefix(got, "HTTP/1.1 404") {
		t.Errorf("got %q", got)
	}
	var all []net.Conn
	for range maxArrivals + 1 {
		conn, _ := l.dial(connectRequest)
		all = append(all, conn)
	}
	l.counted(maxArrivals, 1)
	if err := l.plugs.Close(); err != nil {
		t.Error(err)
	}
	for _, conn := range all {
		if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d bytes, %v", n, err)
		}
	}
	if _, err := l.plugs.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
