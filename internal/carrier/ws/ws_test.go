package ws

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

// patience is for what must happen, on a busy machine too.
const patience = 20 * time.Second

// All goroutines have ended with the tests.
func TestMain(m *testing.M) { carriertest.Main(m) }

// certificate is one that nobody vouches for.
func certificate(t testing.TB) *tls.Config {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
}

// listen serves connections one by one until the test ends, each with a goroutine that closes it.
func listen(t testing.TB, serve func(net.Conn)) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			all.Go(func() { serve(conn); _ = conn.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().(*net.TCPAddr)
}

// gateway takes WebSockets at /ferry and hands them to serve.
func gateway(t testing.TB, scheme string, serve func(net.Conn)) carrier.Endpoint {
	t.Helper()
	c := certificate(t)
	a := listen(t, func(conn net.Conn) {
		take := Accept
		if scheme == "wss" {
			take = func(ctx context.Context, conn net.Conn, path string, _ Takers) (net.Conn, error) {
				return AcceptTLS(ctx, conn, path, c, nil)
			}
		}
		if s, err := take(t.Context(), conn, "/ferry", nil); err == nil {
			serve(s)
			_ = s.Close()
		}
	})
	return endpoint(scheme, a)
}

func endpoint(scheme string, a *net.TCPAddr) carrier.Endpoint {
	return carrier.Endpoint{Scheme: scheme, Host: a.IP.String(), Port: uint32(a.Port), Path: "/ferry"}
}

func echo(conn net.Conn) { _, _ = io.Copy(conn, conn) }

func mustDial(t testing.TB, e carrier.Endpoint, p Options) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := Dial(ctx, e, nil, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// pairs are the two ends of a WebSocket, for each of its schemes.
func pairs(t *testing.T, f func(t *testing.T, device, gateway net.Conn)) {
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			a, b := pair(t, scheme)
			f(t, a, b)
		})
	}
}

func pair(t testing.TB, scheme string) (device, other net.Conn) {
	t.Helper()
	come, done := make(chan net.Conn), make(chan struct{})
	e := gateway(t, scheme, func(s net.Conn) { come <- s; <-done })
	t.Cleanup(func() { close(done) }) // before the listener waits
	device = mustDial(t, e, Options{Proxy: Direct})
	return device, <-come
}

// talk sends data both ways at once through two connections.
func talk(t *testing.T, a, b net.Conn, size int) {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		all.Go(func() {
			for rest, n := data, 1; len(rest) > 0; n = n*3 + 1 { // of all lengths
				part := rest[:min(n, len(rest))]
				if wrote, err := ends[0].Write(part); err != nil || wrote != len(part) {
					t.Errorf("write: %d of %d, %v", wrote, len(part), err)
					return
				}
				rest = rest[len(part):]
			}
		})
		all.Go(func() {
			got := make([]byte, size)
			if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read: %v; the same: %t", err, bytes.Equal(got, data))
			}
		})
	}
}

func TestStream(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		talk(t, a, b, 3<<20)
		if n, err := a.Write(nil); n != 0 || err != nil {
			t.Errorf("nothing to write: %d, %v", n, err)
		}
		if n, err := a.Read(nil); n != 0 || err != nil {
			t.Errorf("nothing to read: %d, %v", n, err)
		}
	})
}

// What carrier.Stream writes at once arrives as one message, and what is in that is read in large parts.
func TestOneWriteOneMessage(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		for _, size := range []int{1, 125, 126, 4095, 4096, 4097, 65535, 65536} {
			for _, ends := range [][2]net.Conn{{a, b}, {b, a}} {
				var sent sync.WaitGroup
				sent.Go(func() { _, _ = ends[0].Write(make([]byte, size)) })
				got, err := ends[1].Read(make([]byte, 256<<10))
				sent.Wait()
				if err != nil || got != min(size, readPart) {
					t.Errorf("got %d bytes, %v, want %d", got, err, size)
				}
				if _, err := io.ReadFull(ends[1], make([]byte, size-got)); err != nil {
					t.Errorf("the rest: %v", err)
				}
			}
		}
	})
}

func TestAddresses(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
			t.Errorf("%s to %s at one end, %s to %s at the other", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
		}
		_, scheme, _ := strings.Cut(t.Name(), "/")
		for _, got := range []net.Addr{a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr()} {
			if got.Network() != scheme {
				t.Errorf("network %q, want %q", got.Network(), scheme)
			}
		}
	})
}

func TestClose(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		for _, conn := range []net.Conn{a, b} {
			if _, err := conn.Write([]byte("last words")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.Read(make([]byte, 4)); err != nil { // some of it stays unread
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("close again: %v", err)
		}
		if got, err := io.ReadAll(b); err != nil || string(got) != "last words" {
			t.Errorf("the other end read %q, %v", got, err)
		}
		for range 2 {
			if _, err := b.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the other end reads %v", err)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("our end reads %v", err)
			}
			if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("our end writes %v", err)
			}
		}
		if err := b.Close(); err != nil {
			t.Errorf("close of the other end: %v", err)
		}
	})
}

// Whatever waits ends with Close, and Close does not wait for the other end.
func TestCloseEndsWhatWaits(t *testing.T) {
	pairs(t, func(t *testing.T, a, _ net.Conn) {
		var waiting sync.WaitGroup
		var readErr, writeErr error
		wrote := make(chan struct{}, 1000)
		waiting.Go(func() { _, readErr = a.Read(make([]byte, 1)) })
		waiting.Go(func() {
			for writeErr == nil { // nobody reads
				_, writeErr = a.Write(make([]byte, 64<<10))
				select {
				case wrote <- struct{}{}:
				default:
				}
			}
		})
		quiet(wrote)
		begin := time.Now()
		_ = a.Close()
		waiting.Wait()
		if took := time.Since(begin); took > 4*time.Second { // the library alone: 5 s and more
			t.Errorf("it took %s", took)
		}
		if !errors.Is(readErr, net.ErrClosed) || !errors.Is(writeErr, net.ErrClosed) {
			t.Errorf("read: %v, write: %v", readErr, writeErr)
		}
	})
}

// quiet waits until nothing comes for a while.
func quiet(c <-chan struct{}) {
	for {
		select {
		case <-c:
		case <-time.After(200 * time.Millisecond):
			return
		}
	}
}

// A connection that is cut is not the end of the stream.
func TestCut(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		_ = a.(*stream).wire.Conn.Close()
		if _, err := b.Read(make([]byte, 1)); err != io.ErrUnexpectedEOF {
			t.Errorf("got %v", err)
		}
	})
}

func TestDeadline(t *testing.T) {
	pairs(t, func(t *testing.T, a, _ net.Conn) {
		_ = a.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := a.Read(make([]byte, 1))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("got %v", err)
		}
	})
}

// What carrier.Stream makes of it: the first byte can be looked at, and records pass.
func TestUnderStream(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 50_000)
		var sending sync.WaitGroup
		defer sending.Wait()
		sending.Go(func() {
			if err := carrier.NewStream(a).Write(data, func() {}); err != nil {
				t.Error(err)
			}
		})
		first, b, err := carrier.FirstByte(t.Context(), b)
		if err != nil || first != '0' {
			t.Fatal(first, err)
		}
		if _, ok := b.(carrier.Waiter); !ok {
			t.Error("it can not be waited for without a buffer any more")
		}
		s := carrier.NewStream(b)
		defer s.Release()
		var got []byte
		for len(got) < len(data) {
			buf, start, end, err := s.Fill()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[start:end]...)
			s.Consume(end - start)
		}
		if !bytes.Equal(got, data) {
			t.Error("the bytes are others")
		}
	})
}

// A frame as the other end could write it: a first byte, a length that is claimed, masked or not.
func frame(first byte, claimed uint64, masked bool, payload string) []byte {
	b := []byte{first, 127}
	b = binary.BigEndian.AppendUint64(b, claimed)
	if masked {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0) // a mask that changes nothing
	}
	return append(b, payload...)
}

const (
	fin          = 0x80
	compressed   = 0x40
	continuation = 0
	text         = 1
	binaryFrame  = 2
	closing      = 8
	ping         = 9
)

// A stranger's frames: what is none of ours is an error, and what is claimed makes nobody allocate.
// exam: M14, R14
func TestFrames(t *testing.T) {
	const long = 1 << 16
	tests := []struct {
		name  string
		bytes [][]byte
		read  int // bytes that come before the error
		err   error
	}{
		{"text", [][]byte{frame(fin|text, 2, true, "hi")}, 0, ErrText},
		{"compressed", [][]byte{frame(fin|compressed|binaryFrame, 2, true, "hi")}, 0, nil},
		{"not masked", [][]byte{frame(fin|binaryFrame, 2, false, "hi")}, 0, nil},
		{"unknown", [][]byte{frame(fin|11, 2, true, "hi")}, 0, nil},
		{"long ping", [][]byte{frame(fin|ping, 126, true, "hi")}, 0, nil},
		{"continues nothing", [][]byte{frame(fin|continuation, 2, true, "hi")}, 0, nil},
		{"begins in another", [][]byte{frame(binaryFrame, 2, true, "hi"), frame(fin|binaryFrame, 2, true, "hi")}, 2, nil},
		{"claims 2^62", [][]byte{frame(fin|binaryFrame, 1<<62, true, "hi")}, 2, io.ErrUnexpectedEOF},
		{"claims 2^63", [][]byte{frame(fin|binaryFrame, 1<<63, true, "hi")}, 0, nil},
		{"closes with 1000", [][]byte{frame(fin|closing, 2, true, "\x03\xe8")}, 0, io.EOF},
		{"closes without a word", [][]byte{frame(fin|closing, 0, true, "")}, 0, io.EOF},
		{"closes with 1008", [][]byte{frame(fin|closing, 2, true, "\x03\xf0")}, 0, nil},
		{"parts", [][]byte{frame(binaryFrame, 2, true, "hi"), frame(continuation, 0, true, ""), frame(fin|continuation, 1, true, "x"), frame(fin|text, 0, true, "")}, 3, ErrText},
		{"endless", bytes.Split(bytes.Repeat(append(frame(continuation, long, true, string(make([]byte, long))), '|'), 20), []byte("|")), maxMessage, nil},
	}
	tests[len(tests)-1].bytes[0][0] = binaryFrame
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t, "ws")
			raw := a.(*stream).wire.Conn.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn)
			all := bytes.Join(tt.bytes, nil)
			var sending sync.WaitGroup
			defer sending.Wait()
			sending.Go(func() {
				_, _ = raw.Write(all)
				_ = raw.CloseWrite()
			})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			n, err := 0, error(nil)
			for buf := make([]byte, 100); err == nil; {
				var more int
				more, err = b.Read(buf)
				n += more
			}
			runtime.ReadMemStats(&after)
			if n < tt.read || n > tt.read+1 || tt.err != nil && !errors.Is(err, tt.err) || tt.err == nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
				t.Errorf("%d bytes, then %v; want %d, then %v", n, err, tt.read, tt.err)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
			if _, again := b.Read(make([]byte, 1)); again != err {
				t.Errorf("then %v", again)
			}
			_ = raw.Close() // Close of b need not wait for its word to be read
		})
	}
}

// Pings of a proxy are answered while the device only reads.
func TestPing(t *testing.T) {
	a, b := pair(t, "ws")
	raw := a.(*stream).wire.Conn
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() { _, _ = b.Read(make([]byte, 1)) })
	if _, err := raw.Write(frame(fin|ping, 2, true, "hi")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	_ = raw.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(raw, got); err != nil || string(got) != "\x8a\x02hi" {
		t.Errorf("got %q, %v", got, err)
	}
	_ = raw.Close()
}

// A message that is sent again and again makes no garbage of its size. (The race detector makes pools forget a quarter.)
func TestAllocations(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		var reading sync.WaitGroup
		reading.Go(func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{b}, make([]byte, 256<<10))
		})
		message := make([]byte, 64<<10)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const messages = 500
		for range messages {
			if _, err := a.Write(message); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / messages; got > 64<<10 {
			t.Errorf("%d bytes are allocated for a message", got)
		}
		_ = a.Close()
		reading.Wait()
	})
}

func BenchmarkStream(b *testing.B) {
	for _, scheme := range []string{"ws", "wss"} {
		for _, size := range []int{1400, 4 << 10, 16 << 10, 64 << 10} {
			b.Run(scheme+"/"+strconv.Itoa(size), func(b *testing.B) { benchmark(b, scheme, size) })
		}
	}
}

func benchmark(b *testing.B, scheme string, size int) {
	from, to := pair(b, scheme)
	data := make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		s := carrier.NewStream(from)
		for range b.N {
			if err := s.Write(data, nil); err != nil {
				b.Error(err)
				return
			}
		}
	})
	s := carrier.NewStream(to)
	defer s.Release()
	for left := size * b.N; left > 0; {
		_, start, end, err := s.Fill()
		if err != nil {
			b.Fatal(err)
		}
		left -= end - start
		s.Consume(end - start)
	}
}
