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
}

func socketPair(t *testing.T, network, address string) (a, b net.Conn) {
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

// eachPair runs f with a stream and the connection at its other end.
func eachPair(t *testing.T, f func(t *testing.T, s *Stream, other net.Conn)) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			s := NewStream(a)
			t.Cleanup(func() { s.Close(); b.Close() })
			f(t, s, b)
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
		if s.Received() != uint64(len(sent)) {
			t.Errorf("counted %d bytes", s.Received())
		}
	})
}

// Exam M5: who sends the start of an item and then nothing holds what was sent, and no more.
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
	if s.rd.buf != nil || len(s.rd.rest) != 0 {
		t.Errorf("after the end: buffer %v, %d bytes", s.rd.buf != nil, len(s.rd.rest))
	}

	s.rd = reader{}
	s.rd.init(s)
	s.rd.borrow()
	s.rd.end += copy(s.rd.buf[s.rd.end:], "unfinished")
	s.rd.giveBack()
	if s.rd.buf != nil || cap(s.rd.rest) > 64 || string(s.rd.rest) != "unfinished" {
		t.Errorf("while waiting: buffer %v, %q with room for %d", s.rd.buf != nil, s.rd.rest, cap(s.rd.rest))
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
		if s.Sent() != uint64(len(sent)) {
			t.Errorf("counted %d bytes", s.Sent())
		}
	})
}

// A peer that does not read stalls nobody: TryWrite returns at once, and Close ends Write.
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
	s, other := NewStream(a), NewStream(b)
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
