package vtunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server of the original gets the request in one piece, and nothing behind it before its reply.
func TestClientOfOriginalServer(t *testing.T) {
	b := originalServer(t, "")
	to := destination(t, echo)
	addr, out := newClient(t, ClientConfig{Dial: b.dial, Port: to})
	conn := dialTCP(t, addr)
	ask(t, conn, "hello") // sent before there is a tunnel
	_ = conn.Close()
	out.await(t, "vtunnel: received connection on "+addr+" tcp")
	out.await(t, "vtunnel: finished processing tunnel, thread exiting")
	if got, want := b.out.String(), fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp\n", to); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Bug 5 of the original, at the other end: "readySSH-2.0-x" is a reply and a banner.
func TestBugCoalescedReadyAtClient(t *testing.T) {
	b := originalServer(t, "SSH-2.0-x\r\n")
	addr, _ := newClient(t, ClientConfig{Dial: b.dial, Port: destination(t, echo)})
	got := make([]byte, 11)
	if _, err := io.ReadFull(dialTCP(t, addr), got); string(got) != "SSH-2.0-x\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// What a server refuses is told in the words of the original, and the application is reset.
func TestClientRefused(t *testing.T) {
	answer := func(text string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			l, err := net.Listen("tcp4", "127.0.0.1:0") // a stream that has two halves, and no name to clean up
			if err != nil {
				return nil, err
			}
			defer l.Close()
			conn, err := net.Dial("tcp4", l.Addr().String())
			if err != nil {
				return nil, err
			}
			server, err := l.Accept()
			if err != nil {
				return nil, err
			}
			_, _ = io.WriteString(server, text)
			go func() {
				defer server.Close()
				_, _ = server.Read(make([]byte, 1024))
			}()
			return conn, nil
		}
	}
	for _, test := range []struct {
		name string
		dial func(context.Context) (net.Conn, error)
		want string
	}{
		{"destination", answer("error"), "vtunnel: remote connect failed"},
		{"address", answer("addr"), "vtunnel: remote addr failed"},
		{"auth string", answer("auth"), "vtunnel: remote auth failed"},
		{"request", answer("fail"), "vtunnel: remote destination line failed to parse"},
		{"another program", answer("220 mail.example ESMTP\r\n"), "vtunnel: invalid notification size 4"},
		{"no server", func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED }, "vtunnel: could not connect to vsock server"},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, out := newClient(t, ClientConfig{Dial: test.dial, Port: 7001})
			conn, err := net.Dial("tcp", addr) // which may be reset already
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
			out.await(t, test.want)
			out.await(t, "vtunnel: could not setup tunnel")
		})
	}
}

// 31 bytes of an auth string count, on both sides.
func TestAuthIsCut(t *testing.T) {
	const auth = "0123456789012345678901234567890123456789"
	b := newServer(t, ServerConfig{Auth: auth})
	addr, _ := newClient(t, ClientConfig{Dial: b.dial, Auth: auth, Port: destination(t, echo)})
	ask(t, dialTCP(t, addr), "hello")
}

// Whoever wants a port that is taken gets the next one.
func TestNextPort(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	first, err := ListenTCP(local, freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := ListenTCP(local, port(first.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if got, want := port(second.Addr()), port(first.Addr())+1; got < want {
		t.Errorf("TCP: got port %d, want %d or above", got, want)
	}
	one, err := ListenUDP(local, freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := ListenUDP(local, port(one.LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if got, want := port(two.LocalAddr()), port(one.LocalAddr())+1; got < want {
		t.Errorf("UDP: got port %d, want %d or above", got, want)
	}
}

// Bug 4 of the original: an address that can not be bound is tried for ever; and there is an end of the ports.
func TestBugUnbindable(t *testing.T) {
	if l, err := ListenTCP(netip.MustParseAddr("192.0.2.1"), 7001); err == nil {
		_ = l.Close()
		t.Error("listens on an address that this machine has not got")
	}
	tried := 0
	_, err := Bind(netip.MustParseAddr("127.0.0.1"), 65530, func(netip.AddrPort) (net.Listener, error) {
		tried++
		return nil, syscall.EADDRINUSE
	})
	if err == nil || tried != 6 {
		t.Errorf("got %v after %d ports, want an error after 6", err, tried)
	}
}

// Bug 1 of the original: its client has no UDP. Datagrams stay apart, also those that wait for the tunnel.
func TestBugNoUDPClient(t *testing.T) {
	b := newServer(t, ServerConfig{})
	addr, out := newClientUDP(t, ClientConfig{Dial: b.dial, Port: echoUDP(t)})
	for _, name := range []string{"one source", "another"} {
		conn, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		got := make([]byte, 1<<16)
		for _, text := range []string{"hello", strings.Repeat("x", 8190), "again"} {
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(got); string(got[:n]) != "<"+text+">" {
				t.Fatalf("%s: got %d bytes, %v, want %d", name, n, err, len(text)+2)
			}
		}
	}
	out.await(t, "vtunnel: received connection on "+addr+" udp")
}

// A flow that nobody uses ends, and begins anew with the next datagram; when there is no room, the oldest gives way.
func TestFlowsEnd(t *testing.T) {
	b := newServer(t, ServerConfig{})
	to := echoUDP(t)
	send := func(t *testing.T, conn net.Conn) {
		t.Helper()
		got := make([]byte, 64)
		for range 20 { // on a busy machine the flow may end before the answer is there
			if _, err := io.WriteString(conn, "x"); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if n, _ := conn.Read(got); string(got[:n]) == "<x>" {
				return
			}
		}
		t.Fatal("no answer")
	}
	source := func(t *testing.T, addr string) net.Conn {
		t.Helper()
		conn, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	const ended = "vtunnel: finished processing tunnel, thread exiting"
	t.Run("idle", func(t *testing.T) {
		addr, out := newClientUDP(t, ClientConfig{Dial: b.dial, Port: to, Idle: func(uint16) time.Duration { return 50 * time.Millisecond }})
		conn := source(t, addr)
		send(t, conn)
		out.await(t, ended)
		send(t, conn)
	})
	t.Run("full", func(t *testing.T) {
		addr, out := newClientUDP(t, ClientConfig{Dial: b.dial, Port: to, Max: 1})
		first, second := source(t, addr), source(t, addr)
		send(t, first)
		send(t, second)
		out.await(t, ended)
		send(t, first)
	})
}

// A datagram that no tunnel carries is dropped, and the flow goes on.
func TestLongDatagram(t *testing.T) {
	b := newServer(t, ServerConfig{})
	addr, _ := newClientUDP(t, ClientConfig{Dial: b.dial, Port: echoUDP(t)})
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	for _, n := range []int{8193, 0, 5} {
		if _, err := conn.Write(bytes.Repeat([]byte("x"), n)); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 64)
	if n, err := conn.Read(got); string(got[:n]) != "<xxxxx>" {
		t.Errorf("got %q, %v", got[:n], err)
	}
}
