package carrier

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

func TestParseListen(t *testing.T) {
	tests := []struct {
		in    string
		url   string // "": an error
		allow Modes
		from  []uint32
	}{
		{"tcp://:2002", "tcp://:2002", 0, nil},
		{"tcp://:2002?allow=tls", "tcp://:2002", TLS, nil},
		{"tcp://:2002?allow=plain", "tcp://:2002", Plain, nil},
		{"vsock://:2002?allow=both&cid=3,4", "vsock://:2002", Plain | TLS, []uint32{3, 4}},
		{"unix:///run/x?uid=0", "unix:///run/x", 0, []uint32{0}},
		{"tcp://:443?allow=tls,web", "tcp://:443", TLS | Web, nil},
		{"tcp://:443?allow=both,web", "tcp://:443", Plain | TLS | Web, nil},
		{"wss://:443", "wss://:443/ferry", TLS | Web, nil},
		{"ws://127.0.0.1:8080/x", "ws://127.0.0.1:8080/x", TLS | Web, nil},
		{"wss://:443?allow=plain", "", 0, nil},
		{"connect-ip://:443", "connect-ip://:443", 0, nil},
		{"connect-ip://?allow=both", "connect-ip://:443", Plain | TLS, nil},
		{"connect-ip://:443?allow=web", "", 0, nil},
		{"connect-ip://:443/ferry", "", 0, nil},
		{"connect-ip+h1://:443", "connect-ip+h1://:443", TLS | Web, nil},
		{"connect-ip+h1://:443?allow=plain", "", 0, nil},
		{"vsock://:443?allow=web", "", 0, nil},
		{"tcp://:443?allow=web,", "", 0, nil},
		{"tcp://:2002?allow=", "", 0, nil},
		{"tcp://:2002?allow=ssl", "", 0, nil},
		{"tcp://:2002?uid=0", "", 0, nil},
		{"tcp://:2002?alow=tls", "", 0, nil},
		{"vsock://:2002?cid=", "", 0, nil},
		{"vsock://:2002?cid=3;allow=tls", "", 0, nil},
		{"vsock://:2002?allow=tls&cid=%zz", "", 0, nil},
		{"vsock://:2002?cid=3&cid=4", "", 0, nil},
		{"tcp://:2002?allow=tls&allow=both", "", 0, nil},
		{"vsock://:2002?cid=3,x", "", 0, nil},
		{"unix:///run/x?cid=3", "", 0, nil},
		{"unix:///run/x?vsock=2002&allow=tls", "", 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			l, err := ParseListen(tt.in)
			checkEndpoint(t, "listen", l.Endpoint, err, tt.url)
			if again, ok := parseModes(l.Allow.String()); l.Allow != 0 && (again != l.Allow || !ok) {
				t.Errorf("%d is written as %q", l.Allow, l.Allow)
			}
			if err == nil && (l.Allow != tt.allow || !slices.Equal(l.From, tt.from)) {
				t.Errorf("got %d, %v; want %d, %v", l.Allow, l.From, tt.allow, tt.from)
			}
		})
	}
	l := Listening{From: []uint32{3}}
	if l.Admits(4) || !l.Admits(3) || !(Listening{}).Admits(4) {
		t.Error("the wrong ones are admitted")
	}
}

func TestFirstByte(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			defer a.Close()
			go func() { // ends with the connection
				_, _ = b.Write([]byte("hello"))
				_ = b.Close()
			}()
			first, again, err := FirstByte(t.Context(), a)
			if err != nil || first != 'h' {
				t.Fatalf("got %q, %v", first, err)
			}
			if got, err := io.ReadAll(again); err != nil || string(got) != "hello" {
				t.Errorf("behind it: got %q, %v; want all from the first byte on", got, err)
			}
		})
		t.Run(name+", silent", func(t *testing.T) {
			a, b := pair(t)
			defer a.Close()
			defer b.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, _, err := FirstByte(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
			}
		})
		t.Run(name+", closed", func(t *testing.T) {
			a, b := pair(t)
			defer a.Close()
			b.Close()
			if _, _, err := FirstByte(t.Context(), a); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want the end", err)
			}
		})
	}
}

// FuzzFirstByte looks at the first byte of a stream that comes in pieces: what is read behind that is the
// whole stream, and a hello of TLS is told from all else by nothing but that byte.
// exam: M11
func FuzzFirstByte(f *testing.F) {
	f.Add([]byte{TLSByte, 3, 1, 0, 5, 1, 0, 0, 1, 0}, uint8(1), uint8(0))
	f.Add([]byte{0x45, 0x14, 0, 0}, uint8(2), uint8(1))
	f.Add([]byte{TLSByte}, uint8(0), uint8(2))
	f.Add([]byte{}, uint8(9), uint8(1))
	f.Add([]byte{0x45}, uint8(0), uint8(0)) // an empty write comes before it
	f.Fuzz(func(t *testing.T, b []byte, cut, kind uint8) {
		names := []string{"pipe", "unix", "tcp"}
		near, far := pairs[names[int(kind)%len(names)]](t)
		defer near.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer far.Close()
			head := b[:min(int(cut), len(b))]
			if _, err := far.Write(head); err != nil {
				return
			}
			_, _ = far.Write(b[len(head):])
		}()
		first, again, err := FirstByte(t.Context(), near)
		if len(b) == 0 {
			if !errors.Is(err, io.EOF) {
				t.Errorf("nothing came: got %d, %v", first, err)
			}
			<-done
			return
		}
		if err != nil || first != b[0] {
			t.Fatalf("got %d, %v; want %d", first, err, b[0])
		}
		if all, err := io.ReadAll(again); err != nil || string(all) != string(b) {
			t.Errorf("got %x, %v; want %x", all, err, b)
		}
		<-done
	})
}

// FuzzParseListen: what is taken comes back as it was, and lets nobody in who is not named.
func FuzzParseListen(f *testing.F) {
	for _, s := range []string{"tcp://:2002?allow=tls", "vsock://:2002?allow=both&cid=3,4", "unix:///run/x?uid=0", "tcp://[::1]:1", "://", "unix://?uid=4294967296"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseListen(s)
		if err != nil {
			return
		}
		if l.Allow > Plain|TLS || len(l.From) > 0 && l.Scheme == "tcp" {
			t.Errorf("%q: %+v", s, l)
		}
		again, err := ParseListen(l.String())
		if err != nil || again.String() != l.String() {
			t.Errorf("%q becomes %q, %q, %v", s, l, again, err)
		}
	})
}
