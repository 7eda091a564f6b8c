package vtunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Whoever asks as a client of the original does gets the answers of the original.
func TestServerGolden(t *testing.T) {
	b := newServer(t, ServerConfig{PieceTimeout: 50 * time.Millisecond})
	to := fmt.Sprint(destination(t, echo))
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			// The table has 7001 for a port that listens.
			shift := func(s string, by int) string {
				var p int
				_, _ = fmt.Sscan(to, &p)
				return fmt.Sprint(p + by)
			}
			line := strings.NewReplacer("72537", shift(to, 65536), "-58535", shift(to, -65536), "7001", to).Replace(g.line)
			conn := b.connect(t)
			got, err := original(conn, line)
			if err != nil || got != g.want {
				t.Fatalf("%q: got %q, %v, want %q", line, got, err, g.want)
			}
			if got != ready {
				if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil {
					t.Errorf("behind %q: got %q, %v, want the end", got, rest, err)
				}
				return
			}
			if !strings.Contains(line, "udp") {
				ask(t, conn, "hello")
			}
		})
	}
	b.out.await(t, "vtunnel: setting up tunnel to 127.0.0.1:"+to+" tcp")
	b.out.await(t, "vtunnel: setting up tunnel to 127.0.0.1:"+to+" xyz")
	b.out.await(t, "vtunnel: finished processing tunnel, thread exiting")
}

// A request that comes byte by byte is one, too.
func TestSplitRequest(t *testing.T) {
	near, far := net.Pipe() // a write ends when it was read
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, c := range []byte("VTUNNEL 127.0.0.1 7001 udp") {
			_, _ = near.Write([]byte{c})
		}
	}()
	r, rest, err := NewServer(ServerConfig{PieceTimeout: patience, RequestTimeout: patience}).readRequest(far)
	if want := (request{"VTUNNEL", "127.0.0.1", 7001, "udp"}); r != want || len(rest) > 0 || err != nil {
		t.Errorf("got %+v, %q, %v, want %+v", r, rest, err, want)
	}
	_ = far.Close()
	<-done
}

// A client that is none gets its answer without a wait, and nothing is kept of it.
func TestNoRequest(t *testing.T) {
	b := newServer(t, ServerConfig{RequestTimeout: 100 * time.Millisecond, PieceTimeout: patience})
	for name, test := range map[string]struct {
		send string
		want string
	}{
		"silence":             {"", ""},
		"slow":                {"VTUNNEL 127.0.0.1", "fail"},
		"longer than is read": {strings.Repeat("x", 1024), "fail"},
		"spaces":              {strings.Repeat(" ", 1024), "fail"},
	} {
		conn := b.connect(t)
		if _, err := io.WriteString(conn, test.send); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(conn); string(got) != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// Bug 5 of the original: a banner that comes with "ready" ends the tunnel. Its clients never see one.
func TestBugCoalescedReady(t *testing.T) {
	banner := destination(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
		echo(conn)
	})
	b := newServer(t, ServerConfig{Hold: 2 * time.Second})
	t.Run("read late", func(t *testing.T) {
		conn := b.connect(t)
		if _, err := fmt.Fprintf(conn, "VTUNNEL 127.0.0.1 %d tcp", banner); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // a client that was busy
		got := make([]byte, 1024)
		if n, err := conn.Read(got); string(got[:n]) != "ready" {
			t.Fatalf("got %q, %v, want ready alone", got[:n], err)
		}
		if n, err := conn.Read(got); string(got[:n]) != "SSH-2.0-x\r\n" {
			t.Fatalf("got %q, %v, want the banner", got[:n], err)
		}
	})
	t.Run("the client speaks", func(t *testing.T) {
		slow := newServer(t, ServerConfig{Hold: patience})
		conn := slow.connect(t)
		if got, err := original(conn, fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", banner)); got != ready {
			t.Fatalf("got %q, %v", got, err)
		}
		began := time.Now()
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 12)
		if _, err := io.ReadFull(conn, got); string(got) != "SSH-2.0-x\r\nx" || time.Since(began) > patience/2 {
			t.Errorf("got %q, %v after %s", got, err, time.Since(began))
		}
	})
}

// Bug 2 of the original: a write to a peer that is gone (SIGPIPE) ends the server and all tunnels.
func TestBugSIGPIPE(t *testing.T) {
	told := make(chan struct{})
	flood := destination(t, func(conn *net.TCPConn) {
		<-told
		for {
			if _, err := conn.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	b := newServer(t, ServerConfig{Hold: time.Nanosecond})
	other := b.connect(t)
	if got, err := original(other, fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", destination(t, echo))); got != ready {
		t.Fatalf("got %q, %v", got, err)
	}
	gone := b.connect(t)
	if got, err := original(gone, fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", flood)); got != ready {
		t.Fatalf("got %q, %v", got, err)
	}
	_ = gone.Close()
	close(told)
	b.out.await(t, "vtunnel: finished processing tunnel, thread exiting")
	ask(t, other, "still here")
}

// Bug 3 of the original: -A 0.0.0.0/0 refuses everything.
func TestBugAcceptEverything(t *testing.T) {
	to := destination(t, echo)
	for _, test := range []struct {
		accept string
		want   reply
	}{
		{"0.0.0.0/0", ready}, {"127.0.0.0/1", ready}, {"127.0.0.0/8", ready}, {"127.9.9.9/8", ready}, {"127.0.0.1/32", ready},
		{"127.0.0.2/32", badAddress}, {"10.0.0.0/8", badAddress}, {"128.0.0.0/1", badAddress},
	} {
		p, err := ParseAccept(test.accept)
		if err != nil {
			t.Fatal(err)
		}
		b := newServer(t, ServerConfig{Accept: []netip.Prefix{p}})
		if got, err := original(b.connect(t), fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", to)); got != test.want {
			t.Errorf("-A %s: got %q, %v, want %q", test.accept, got, err, test.want)
		}
	}
}

// Bug 7 of the original: words that are longer than its arrays overflow its stack, before the auth string is looked at.
func TestBugLongFields(t *testing.T) {
	const auth = "0123456789012345678901234567890123456789"
	b := newServer(t, ServerConfig{Auth: auth, PieceTimeout: 50 * time.Millisecond})
	to := destination(t, echo)
	long := strings.Repeat("A", 300)
	for _, test := range []struct {
		name, line string
		want       reply
	}{
		{"auth string of 31 bytes", fmt.Sprintf("%s 127.0.0.1 %d tcp", auth[:31], to), ready},
		{"auth string of 32 bytes", fmt.Sprintf("%s 127.0.0.1 %d tcp", auth[:32], to), badAuth},
		{"auth string of 30 bytes", fmt.Sprintf("%s 127.0.0.1 %d tcp", auth[:30], to), badAuth},
		{"auth string of 300 bytes", fmt.Sprintf("%s 127.0.0.1 %d tcp", long, to), badAuth},
		{"address of 300 bytes", fmt.Sprintf("%s %s %d tcp", auth[:31], long, to), badAddress},
		{"protocol of 300 bytes", fmt.Sprintf("%s 127.0.0.1 %d %s", auth[:31], to, long), ready},
		{"port of 300 digits", fmt.Sprintf("%s 127.0.0.1 %s tcp", auth[:31], strings.Repeat("9", 300)), notReached},
	} {
		if got, err := original(b.connect(t), test.line); got != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

// Bug 8 of the original: connections that come together share a descriptor or lose it; and bug 9: no descriptor may be above 1024.
func TestBugManyAtOnce(t *testing.T) {
	const tunnels = 300 // five descriptors each, in this process
	b := newServer(t, ServerConfig{})
	addr, _ := newClient(t, ClientConfig{Dial: b.dial, Port: destination(t, echo)})
	conns := make([]net.Conn, tunnels)
	for i := range conns {
		conns[i] = dialTCP(t, addr)
	}
	for i, conn := range conns {
		if _, err := fmt.Fprintf(conn, "%4d", i); err != nil {
			t.Fatal(err)
		}
	}
	for i, conn := range conns {
		got := make([]byte, 4)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != fmt.Sprintf("%4d", i) {
			t.Fatalf("tunnel %d: got %q, %v", i, got, err)
		}
	}
}

// Bug 9 of the original: a destination, or a server, that does not answer is waited for without end.
func TestBugNoTimeout(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := &lab{path: path}
	addr, out := newClient(t, ClientConfig{Dial: silent.dial, Port: 1, ReplyTimeout: 100 * time.Millisecond})
	if _, err := dialTCP(t, addr).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	out.await(t, "vtunnel: invalid notification size 0")
	out.await(t, "vtunnel: could not setup tunnel")
}

// A tunnel with a client that has sent all it had still brings the answer: what the original can not.
func TestHalfClose(t *testing.T) {
	b := newServer(t, ServerConfig{})
	sum := destination(t, func(conn *net.TCPConn) {
		n, _ := io.Copy(io.Discard, conn)
		fmt.Fprintf(conn, "%d bytes", n)
	})
	addr, _ := newClient(t, ClientConfig{Dial: b.dial, Port: sum})
	conn := dialTCP(t, addr)
	if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "1048576 bytes" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A client of the original that is gone can not be told from one that waits for the answer; but not for ever.
func TestHalfOpenEnds(t *testing.T) {
	b := newServer(t, ServerConfig{HalfOpen: 50 * time.Millisecond})
	deaf := destination(t, func(conn *net.TCPConn) {
		_, _ = io.Copy(io.Discard, conn)
		_, _ = conn.Read(make([]byte, 1)) // and the connection stays
		for {
			if _, err := conn.Write(nil); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	conn := b.connect(t)
	if got, err := original(conn, fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", deaf)); got != ready {
		t.Fatalf("got %q, %v", got, err)
	}
	_ = conn.Close()
	b.out.await(t, "vtunnel: finished processing tunnel, thread exiting")
}

// What goes in comes out, in both directions at once.
func TestBulk(t *testing.T) {
	b := newServer(t, ServerConfig{})
	addr, _ := newClient(t, ClientConfig{Dial: b.dial, Port: destination(t, echo)})
	conn := dialTCP(t, addr)
	want := make([]byte, 8<<20)
	_, _ = rand.Read(want)
	go func() {
		_, _ = conn.Write(want)
		_ = conn.CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v, want %d as they were sent", len(got), err, len(want))
	}
}

// When there is no room for a tunnel, the others go on.
func TestServerIsFull(t *testing.T) {
	b := newServer(t, ServerConfig{Max: 1})
	to := destination(t, echo)
	first := b.connect(t)
	if got, err := original(first, fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", to)); got != ready {
		t.Fatalf("got %q, %v", got, err)
	}
	if got, err := io.ReadAll(b.connect(t)); len(got) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("got %q, %v, want the end", got, err)
	}
	ask(t, first, "still here")
}

// One source has half of the tunnels, however many it asks for: the others are for others. What it had comes back to it.
func TestSourceHasItsShare(t *testing.T) {
	at, err := ParseListen(fmt.Sprintf("tcp://127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := at.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	count := new(Counters)
	background(t, func(ctx context.Context) error {
		return NewServer(ServerConfig{Max: 8, Admit: at.Admit, Count: count}).Serve(ctx, l)
	})
	line := fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", destination(t, echo))
	open := func(from string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		if got, err := original(conn, line); err != nil || got != ready {
			return nil, fmt.Errorf("%q, %w", got, err)
		}
		return conn, nil
	}
	var first net.Conn
	made := 0
	for range 8 {
		if conn, err := open("127.0.0.2"); err == nil {
			first = conn
			made++
		}
	}
	if n := count.Stats(); made != 4 || n["share"] != 4 || n["full"] != 0 {
		t.Errorf("one source has %d of 8 tunnels, want half of them; counted %v", made, n)
	}
	for range 4 {
		if _, err := open("127.0.0.3"); err != nil {
			t.Errorf("another source: %v", err)
		}
	}
	_ = first.Close()
	await(t, func() bool { return count.Stats()["ended"] == 1 })
	await(t, func() bool { _, err := open("127.0.0.2"); return err == nil })
}

// Those who come by a unix socket are told by their users.
func TestSourceOfUser(t *testing.T) {
	at, err := ParseListen("unix://" + t.TempDir() + "/s")
	if err != nil {
		t.Fatal(err)
	}
	l, err := at.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("unix", at.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	uid := os.Getuid()
	want := netip.AddrFrom4([4]byte{byte(uid >> 24), byte(uid >> 16), byte(uid >> 8), byte(uid)})
	if got, err := at.Admit(far); got != want || err != nil {
		t.Errorf("got %s, %v, want %s for user %d", got, err, want, uid)
	}
}

func TestAdmit(t *testing.T) {
	l, err := ParseListen(fmt.Sprintf("unix:///s?uid=%d", os.Getuid()+1))
	if err != nil {
		t.Fatal(err)
	}
	b := newServer(t, ServerConfig{Admit: l.Admit})
	got, err := original(b.connect(t), fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", destination(t, echo)))
	if err == nil {
		t.Errorf("got %q, want the end", got)
	}
}

// The deadlines of requests and replies are no deadlines of tunnels.
func TestIdleTunnel(t *testing.T) {
	const short = 50 * time.Millisecond
	b := newServer(t, ServerConfig{RequestTimeout: short, PieceTimeout: short})
	addr, _ := newClient(t, ClientConfig{Dial: b.dial, Port: destination(t, echo), ReplyTimeout: 100 * short})
	conn := dialTCP(t, addr)
	ask(t, conn, "hello")
	time.Sleep(3 * short)
	ask(t, conn, "still here")
}

// Writes are apart, so that a reader who keeps up sees each.
func TestPacer(t *testing.T) {
	var p pacer
	began := time.Now()
	for range 5 {
		p.wait()
	}
	if took := time.Since(began); took < 4*apart {
		t.Errorf("five datagrams within %s, want %s or more", took, 4*apart)
	}
}

// Each write is a datagram, each datagram a read; neither is longer than 8192 bytes.
func TestServerUDP(t *testing.T) {
	b := newServer(t, ServerConfig{})
	conn := b.connect(t)
	if got, err := original(conn, fmt.Sprintf("VTUNNEL 127.0.0.1 %d udp", echoUDP(t))); got != ready {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := conn.Write(bytes.Repeat([]byte("x"), 20000)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	b1 := make([]byte, 1<<16)
	for len(got) < 8192+8192+3618 { // the two first ones were full already: cut to 8192 with the marks
		n, err := conn.Read(b1)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b1[:n]...)
	}
	x := func(n int) string { return strings.Repeat("x", n) }
	if want := "<" + x(8191) + "<" + x(8191) + "<" + x(3616) + ">"; string(got) != want {
		t.Errorf("got %d bytes, %q...", len(got), got[:10])
	}
}

// Nobody at the destination: the tunnel ends, and the client learns of it.
func TestServerUDPUnreachable(t *testing.T) {
	b := newServer(t, ServerConfig{})
	conn := b.connect(t)
	if got, err := original(conn, "VTUNNEL 127.0.0.1 1 udp"); got != ready {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) > 0 || os.IsTimeout(err) {
		t.Errorf("got %q, %v, want the end", got, err)
	}
}

// Connections that ask for nothing keep nobody out: of those some have to go, and not who comes.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	count := new(Counters)
	b := newServer(t, ServerConfig{Max: 400, Count: count, RequestTimeout: patience, PieceTimeout: patience})
	to := destination(t, echo)
	for i := range 500 {
		conn := b.connect(t)
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "VTUNNEL 127.0.0.1") // it may have been closed by now
		}
	}
	await(t, func() bool { n := count.Stats(); return n["unasked"]+n["full"] >= 400 })
	for range 20 {
		conn := b.connect(t)
		if got, err := original(conn, fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", to)); got != ready {
			t.Fatalf("got %q, %v", got, err)
		}
		ask(t, conn, "hello")
	}
}

// await waits until something is so.
func await(t *testing.T, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}

// The documentation says what is counted.
func TestCountersAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/vtunnel.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range new(Counters).Stats() {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/vtunnel.md does not say what %s is", name)
		}
	}
}

// Each connection is counted once, by what became of it.
func TestCounters(t *testing.T) {
	count := new(Counters)
	c := ServerConfig{Count: count, Max: 7, RequestTimeout: patience, PieceTimeout: patience}
	b := newServer(t, c)
	tunnel := fmt.Sprintf("VTUNNEL 127.0.0.1 %d tcp", destination(t, echo))
	for _, line := range []string{"VTUNNEL 127.0.0.1", "BAD 127.0.0.1 7001 tcp", "VTUNNEL 10.0.0.1 7001 tcp", "VTUNNEL 127.0.0.1 0 tcp", "", tunnel} {
		conn := b.connect(t)
		_, _ = io.WriteString(conn, line)
		_ = conn.CloseWrite()
		_, _ = io.ReadAll(conn)
	}
	want := map[string]uint64{"made": 1, "ended": 1, "full": 0, "share": 0, "unasked": 0, "source": 0, "silent": 1, "request": 1, "auth": 1, "address": 1, "destination": 1}
	await(t, func() bool { return maps.Equal(count.Stats(), want) })
	b = newServer(t, c) // with none in it, not even one that is about to leave
	_ = b.connect(t)    // silent, and the next one takes its place
	await(t, func() bool { return b.server.gate.Stats().Sessions == 1 })
	for range 5 {
		if got, err := original(b.connect(t), tunnel); got != ready {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	want["made"], want["unasked"] = 6, 1
	await(t, func() bool { return maps.Equal(count.Stats(), want) })
	await(t, func() bool { _, _ = original(b.connect(t), tunnel); return count.Stats()["full"] > 0 })
}
