package tls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

const carrierMax = carrier.MaxRecord

func everybody(identity.Protocol, identity.Public) error { return nil }

// socketPair returns two connected sockets, which the test closes.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	deadline := time.Now().Add(20 * time.Second)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	return a, b
}

// echo sends back what comes, with the standard library's TLS.
func echo(c *tls.Conn) error {
	_, err := io.Copy(c, c)
	return errors.Join(err, c.Close())
}

// exchange sends data through a stream and wants it back.
func exchange(t *testing.T, s *carrier.Stream, size int) {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	sent := make(chan error, 1)
	go func() { sent <- s.Write(data, func() {}) }()
	var got []byte
	for len(got) < len(data) {
		buf, start, end, err := s.Fill()
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got = append(got, buf[start:end]...)
		s.Consume(end - start)
	}
	if err := <-sent; err != nil || !bytes.Equal(got, data) {
		t.Errorf("%v; got %d bytes, want the %d that were sent", err, len(got), len(data))
	}
}

// Behind the handshake our records are those of any TLS 1.3.
func TestStandardPeer(t *testing.T) {
	gateway, device := identity.NewKey(), identity.NewKey()
	serverConfig := gateway.Server(everybody)
	clientConfig := device.Client(identity.Tunnel, gateway.Public().Pin())
	t.Run("server", func(t *testing.T) {
		a, b := socketPair(t)
		done := make(chan error, 1)
		go func() { done <- echo(tls.Client(a, clientConfig)) }()
		r, protocol, key, err := Server(t.Context(), b, serverConfig)
		if err != nil || protocol != identity.Tunnel || key != device.Public() {
			t.Fatal(protocol, key, err)
		}
		s := carrier.NewSecureStream(b, r)
		exchange(t, s, 1<<20)
		s.Close()
		<-done
	})
	t.Run("client", func(t *testing.T) {
		a, b := socketPair(t)
		done := make(chan error, 1)
		go func() {
			c := tls.Server(b, serverConfig)
			_, err := c.Write([]byte("at once"))
			done <- errors.Join(err, echo(c))
		}()
		r, err := Client(t.Context(), a, clientConfig)
		if err != nil {
			t.Fatal(err)
		}
		s := carrier.NewSecureStream(a, r)
		buf, start, end, err := s.Fill()
		if err != nil || string(buf[start:end]) != "at once" {
			t.Fatalf("got %q, %v", buf[start:end], err)
		}
		s.Consume(end - start)
		exchange(t, s, 1<<20)
		s.Close()
		<-done
	})
}

// What came before the end is delivered, though both came at once.
func TestLastWords(t *testing.T) {
	one, two := pair(t, tls.TLS_AES_128_GCM_SHA256)
	a, b := socketPair(t)
	sealed, err := one.Seal(nil, []byte("last words"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(one.out.seal(sealed, []byte{1, 0}, typeAlert)); err != nil {
		t.Fatal(err)
	}
	s := carrier.NewSecureStream(b, two)
	buf, start, end, err := s.Fill()
	if err != nil || string(buf[start:end]) != "last words" {
		t.Fatalf("got %q, %v", buf[start:end], err)
	}
	s.Consume(end - start)
	if _, _, _, err := s.Fill(); err != io.EOF {
		t.Errorf("behind them: got %v, want %v", err, io.EOF)
	}
}

var errStranger = errors.New("stranger")

// A device hears by an alert that its key is refused.
func TestRefusedKey(t *testing.T) {
	gateway := identity.NewKey()
	a, b := socketPair(t)
	done := make(chan error, 1)
	go func() {
		_, _, _, err := Server(t.Context(), b, gateway.Server(func(identity.Protocol, identity.Public) error { return errStranger }))
		b.Close()
		done <- err
	}()
	r, err := Client(t.Context(), a, identity.NewKey().Client(identity.Tunnel, gateway.Public().Pin()))
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = carrier.NewSecureStream(a, r).Fill()
	if !errors.Is(err, ErrAlert) || !errors.Is(err, tls.AlertError(42)) {
		t.Errorf("got %v, want the alert bad_certificate", err)
	}
	if err := <-done; !errors.Is(err, errStranger) {
		t.Errorf("gateway: got %v, want %v", err, errStranger)
	}
}

// A hello in 1-byte segments works; what is none ends at once, and what never ends by ctx.
// exam: M11
func TestHello(t *testing.T) {
	gateway, device := identity.NewKey(), identity.NewKey()
	t.Run("byte by byte", func(t *testing.T) {
		a, b := socketPair(t)
		done := make(chan error, 1)
		go func() { done <- echo(tls.Client(bytewise{a}, device.Client(identity.Join, gateway.Public().Pin()))) }()
		r, protocol, _, err := Server(t.Context(), b, gateway.Server(everybody))
		if err != nil || protocol != identity.Join {
			t.Fatal(protocol, err)
		}
		s := carrier.NewSecureStream(b, r)
		exchange(t, s, 1000)
		s.Close()
		<-done
	})
	huge := append([]byte{22, 3, 1, 0x40, 0, 1, 1, 0, 0}, make([]byte, 64<<10)...)
	for name, hello := range map[string][]byte{
		"junk":            append([]byte{22}, bytes.Repeat([]byte("junk"), 100)...),
		"another version": {22, 9, 9, 0, 1, 1},
		"no handshake":    {22, 3, 1, 0, 4, 99, 0, 0, 0},
		"64 KiB":          huge,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := socketPair(t)
			go func() { _, _ = a.Write(hello); _ = a.(*net.TCPConn).CloseWrite() }()
			if _, _, _, err := Server(t.Context(), b, gateway.Server(everybody)); err == nil {
				t.Error("no error")
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		_, b := socketPair(t)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, _, _, err := Server(ctx, b, gateway.Server(everybody)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

// bytewise writes one byte at a time.
type bytewise struct{ net.Conn }

func (b bytewise) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// FuzzHello sends bytes to a gateway that waits for a hello: it ends with an error, and says no more to it
// than one alert.
// exam: M11, M14
func FuzzHello(f *testing.F) {
	gateway := identity.NewKey()
	config := gateway.Server(func(identity.Protocol, identity.Public) error { return nil })
	hello := firstFlight(f, gateway)
	f.Add(hello)
	f.Add(hello[:100])
	f.Add(append([]byte{22}, bytes.Repeat([]byte("junk"), 50)...))
	f.Add([]byte{22, 3, 1, 0x40, 0, 1, 1, 0, 0})
	f.Add([]byte{21, 3, 3, 0, 2, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		said := make(chan []byte, 1)
		go func() {
			go func() { // ends with the pipe
				_, _ = far.Write(b)
				time.Sleep(time.Millisecond)
				_ = far.SetReadDeadline(time.Now())
			}()
			all, _ := io.ReadAll(far)
			said <- all
			far.Close()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, _, _, err := Server(ctx, near, config)
		near.Close()
		all := <-said
		if err == nil {
			t.Fatal("a handshake without a key")
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("it waits for what does not come")
		}
		if alerts := bytes.Count(all, []byte{21, 3, 3, 0, 2}); alerts > 1 || len(all) > 0 && all[0] != 21 && all[0] != 22 {
			t.Errorf("%d alerts, %x", alerts, all)
		}
	})
}

// firstFlight returns what a device sends first.
func firstFlight(tb testing.TB, gateway identity.Key) []byte {
	tb.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() { // ends with the pipe
		_ = tls.Client(far, identity.NewKey().Client(identity.Tunnel, gateway.Public().Pin())).Handshake()
	}()
	b := make([]byte, 16<<10)
	n, err := near.Read(b)
	if err != nil {
		tb.Fatal(err)
	}
	return b[:n]
}
