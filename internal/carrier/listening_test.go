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
