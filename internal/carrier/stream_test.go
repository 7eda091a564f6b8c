package carrier

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// pairs make two connected ends of every kind that a Stream knows.
var pairs = map[string]func(t *testing.T) (a, b net.Conn){
	"tcp":  func(t *testing.T) (a, b net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") },
	"unix": func(t *testing.T) (a, b net.Conn) { return socketPair(t, "unix", filepath.Join(t.TempDir(), "s")) },
	"pipe": func(*testing.T) (a, b net.Conn) { return net.Pipe() },
	"waiter": func(*testing.T) (a, b net.Conn) {
		a, b = net.Pipe()
		return &ahead{Conn: a, idle: func() {}}, b
	},
}

// ahead is a Waiter that waits by reading.
type ahead struct {
	net.Conn
	first []byte
	idle  func() // called when it waits
}

func (a *ahead) Wait(idle func()) error {
	if len(a.first) > 0 {
		return nil
	}
	idle()
	a.idle()
	b := make([]byte, 64<<10)
	n, err := io.ReadAtLeast(a.Conn, b, 1)
	a.first = b[:n]
	return err
}

func (a *ahead) Read(b []byte) (int, error) {
	if err := a.Wait(func() {}); err != nil {
		return 0, err
	}
	n := copy(b, a.first)
	a.first = a.first[n:]
	return n, nil
}

func socketPair(t testing.TB, network, address string) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// mirror is a Cipher that hides nothing: [length 3][every bit turned over].
type mirror struct{}

func (mirror) Seal(dst, b []byte) ([]byte, error) {
	for len(b) > 0 {
		n := min(len(b), 16<<10)
		dst = append(dst, byte(n>>16), byte(n>>8), byte(n))
		for _, c := range b[:n] {
			dst = append(dst, ^c)
		}
		b = b[n:]
	}
	return dst, nil
}

func (mirror) Open(dst, sealed []byte) ([]byte, int, error) {
	if len(sealed) < 3 {
		return dst, 0, nil
	}
	n := 3 + int(sealed[0])<<16 + int(sealed[1])<<8 + int(sealed[2])
	if n > MaxRecord {
		return dst, 0, errors.New("not a record")
	}
	if len(sealed) < n {
		return dst, 0, nil
	}
	for _, c := range sealed[3:n] {
		dst = append(dst, ^c)
	}
	return dst, n, nil
}

// mirrored is a connection to who speaks mirror.
type mirrored struct {
	net.Conn
	in, out []byte
}

func (m *mirrored) Write(b []byte) (int, error) {
	sealed, _ := mirror{}.Seal(nil, b)
	_, err := m.Conn.Write(sealed)
	return len(b), err
}

func (m *mirrored) Read(b []byte) (int, error) {
	more := make([]byte, 64<<10)
	for len(m.out) == 0 {
		plain, n, err := mirror{}.Open(nil, m.in)
		if err != nil {
			return 0, err
		}
		m.in, m.out = m.in[n:], plain
		if n > 0 {
			continue
		}
		if n, err = m.Conn.Read(more); err != nil {
			return 0, err
		}
		m.in = append(m.in, more[:n]...)
	}
	n := copy(b, m.out)
	m.out = m.out[n:]
	return n, nil
}

// eachPair runs f with a stream and the connection at its other end, without and with a cipher.
func eachPair(t *testing.T, f func(t *testing.T, s *Stream, other net.Conn)) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			s := NewStream(a)
			t.Cleanup(func() { s.Close(); b.Close() })
			f(t, s, b)
		})
		t.Run(name+", sealed", func(t *testing.T) {
			a, b := pair(t)
			s := NewSecureStream(a, mirror{})
			t.Cleanup(func() { s.Close(); b.Close() })
			f(t, s, &mirrored{Conn: b})
		})
	}
}

// What is read in parts and consumed in parts arrives whole.
func TestFill(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Stream, other net.Conn) {
		random := rand.New(rand.NewPCG(1, 2))
		sent := make([]byte, 1<<20)
		for i := range sent {
			sent[i] = byte(random.Uint32())
		}
		go func() {
			for rest := sent; len(rest) > 0; {
				n := min(1+random.IntN(100_000), len(rest))
				_, _ = other.Write(rest[:n])
				rest = rest[n:]
			}
			other.Close()
		}()
		var got []byte
		consume := rand.New(rand.NewPCG(3, 4))
		for {
			buf, start, end, err := s.Fill()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if start < Headroom {
				t.Fatalf("only %d bytes before the first unread one", start)
			}
			// An unfinished item of up to 60,000 bytes stays.
			n := max(end-start-consume.IntN(60_000), 0)
			got = append(got, buf[start:start+n]...)
			clear(buf[start-Headroom : start+n]) // the caller may write there
			s.Consume(n)
			if len(got)+end-start-n == len(sent) {
				got = append(got, buf[start+n:end]...)
				s.Consume(end - start - n)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes, want %d; or they differ", len(got), len(sent))
		}
		if s.cipher == nil && s.Received() != uint64(len(sent)) {
			t.Errorf("counted %d bytes", s.Received())
		}
	})
}

// Who sends the start of an item and then nothing holds what was sent, and no more.
// exam: M5
func TestIdleStreamHoldsNoBuffer(t *testing.T) {
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	s := NewStream(a)
	defer b.Close()
	if _, err := b.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := s.Fill(); err != nil {
		t.Fatal(err)
	}
	s.Consume(900)
	done := make(chan struct{})
	go func() { _, _, _, _ = s.Fill(); close(done) }()
	// The goroutine waits in the runtime once its attempt to read found nothing; a read
	// deadline wakes it with an error only after that attempt.
	time.AfterFunc(50*time.Millisecond, func() { _ = a.SetReadDeadline(time.Now()) })
	<-done
	if s.rd.in.buf != nil || len(s.rd.in.rest) != 0 {
		t.Errorf("after the end: buffer %v, %d bytes", s.rd.in.buf != nil, len(s.rd.in.rest))
	}

	s.rd = reader{}
	s.rd.init(s)
	s.rd.in.borrow()
	s.rd.in.end += copy(s.rd.in.buf[s.rd.in.end:], "unfinished")
	s.rd.in.giveBack()
	if s.rd.in.buf != nil || cap(s.rd.in.rest) > 64 || string(s.rd.in.rest) != "unfinished" {
		t.Errorf("while waiting: buffer %v, %q with room for %d", s.rd.in.buf != nil, s.rd.in.rest, cap(s.rd.in.rest))
	}
}

// Nor does one whose connection has no descriptor, as far as that can be waited for.
// exam: M5
func TestWaiterHoldsNoBuffer(t *testing.T) {
	for name, stream := range map[string]func(net.Conn) *Stream{
		"plain":  NewStream,
		"sealed": func(conn net.Conn) *Stream { return NewSecureStream(conn, mirror{}) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			sent := []byte{0, 0, 3, ^byte('a'), ^byte('b'), ^byte('c')} // a record of mirror
			go func() {                                                 // ends with the connection
				_, _ = b.Write(sent[:4])
				_, _ = b.Write(sent[4:])
				_ = b.Close()
			}()
			conn := &ahead{Conn: a}
			conn.idle = func() {}
			_, again, err := FirstByte(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			s := stream(again)
			waits := 0
			conn.idle = func() {
				waits++
				if s.rd.in.buf != nil || s.rd.plain.buf != nil {
					t.Error("a buffer is held while the stream waits")
				}
			}
			for err == nil {
				_, _, _, err = s.Fill() // nothing is consumed: all stays unread
			}
			if err != io.EOF || waits < 2 {
				t.Errorf("%v after waiting %d times", err, waits)
			}
		})
	}
}

func TestWrite(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Stream, other net.Conn) {
		sent := bytes.Repeat([]byte("0123456789"), 1<<17)
		result := make(chan []byte, 1)
		go func() {
			got, _ := io.ReadAll(other)
			result <- got
		}()
		n, err := s.TryWrite(sent)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		if err := s.Write(sent[n:], func() { calls++ }); err != nil {
			t.Fatal(err)
		}
		if n < len(sent) && calls == 0 {
			t.Error("progress was never reported")
		}
		s.Close()
		if got := <-result; !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes, want %d; or they differ", len(got), len(sent))
		}
		if s.cipher == nil && s.Sent() != uint64(len(sent)) {
			t.Errorf("counted %d bytes", s.Sent())
		}
	})
}

// What was sealed and not taken is held, and goes out first.
func TestHeld(t *testing.T) {
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	s, other := NewSecureStream(a, mirror{}), &mirrored{Conn: b}
	defer s.Close()
	defer b.Close()
	sent := bytes.Repeat([]byte("0123456789"), 1<<20)
	n, err := s.TryWrite(sent)
	if err != nil || n == len(sent) || s.Held() == 0 {
		t.Fatalf("took %d of %d bytes, %v, holds %d: the test needs less", n, len(sent), err, s.Held())
	}
	if more, err := s.TryWrite(sent[n:]); more != 0 || err != nil {
		t.Errorf("took %d bytes behind what is held, %v", more, err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Write(nil, func() {}) }()
	got := make([]byte, n)
	if _, err := io.ReadFull(other, got); err != nil || !bytes.Equal(got, sent[:n]) {
		t.Errorf("%v, or the bytes differ", err)
	}
	if err := <-done; err != nil || s.Held() != 0 {
		t.Errorf("%v, still holds %d bytes", err, s.Held())
	}
}

// A peer that does not read stalls nobody: TryWrite returns at once, and Close ends Write.
// exam: R3
func TestPeerThatDoesNotRead(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Stream, _ net.Conn) {
		b := make([]byte, 32<<20)
		if n, err := s.TryWrite(b); n == len(b) || err != nil {
			t.Fatalf("took %d bytes, %v", n, err)
		}
		if n, err := s.TryWrite(b); n > 4<<20 || err != nil {
			t.Fatalf("took %d bytes more, %v", n, err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Write(b, nil) }()
		time.AfterFunc(20*time.Millisecond, func() { s.Close() })
		if err := <-done; err == nil {
			t.Error("no error after Close")
		}
		if _, err := s.TryWrite(b); err == nil && s.raw != nil {
			t.Error("TryWrite after Close: no error")
		}
	})
}

func TestCloseEndsFill(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Stream, _ net.Conn) {
		done := make(chan error, 1)
		go func() {
			_, _, _, err := s.Fill()
			done <- err
		}()
		time.AfterFunc(20*time.Millisecond, func() { s.Close() })
		err := <-done
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("got %v, want a closed connection", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	noAllocations(t, NewStream(a), NewStream(b))
	a, b = socketPair(t, "tcp", "127.0.0.1:0")
	noAllocations(t, NewSecureStream(a, mirror{}), NewSecureStream(b, mirror{}))
}

func noAllocations(t *testing.T, s, other *Stream) {
	t.Helper()
	defer s.Close()
	defer other.Close()
	msg := make([]byte, 1000)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := s.TryWrite(msg); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(msg); {
			_, start, end, err := other.Fill()
			if err != nil {
				t.Fatal(err)
			}
			got += end - start
			other.Consume(end - start)
		}
	}); n > 0.1 {
		t.Errorf("got %v allocations, want 0", n)
	}
}
