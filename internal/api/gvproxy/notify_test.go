package gvproxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

// What a program is told, a line for each connection; and it is told again when it is back.
func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n.sock")
	n, err := NewNotifier("unix://"+path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	n.Send(Notification{Type: Ready}) // nobody listens
	deadline := time.Now().Add(20 * time.Second)
	for n.Counts()["notifications_failed"] == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct {
		n    Notification
		want string
	}{
		{Notification{Type: Ready}, `{"notification_type":"ready"}` + "\n"},
		{Notification{Type: Established, MAC: "5a:94:ef:e4:0c:ee"}, `{"notification_type":"connection_established","mac_address":"5a:94:ef:e4:0c:ee"}` + "\n"},
		{
			Notification{Type: Closed, MAC: "5a:94:ef:e4:0c:ee", Address: netip.MustParseAddr("10.0.0.7"), Name: "a\"\n"},
			`{"notification_type":"connection_closed","mac_address":"5a:94:ef:e4:0c:ee","address":"10.0.0.7","name":"a\"\n"}` + "\n",
		},
	} {
		n.Send(tt.n)
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		_ = conn.Close()
		if err != nil || string(got) != tt.want {
			t.Errorf("got %q, %v, want %q", got, err, tt.want)
		}
	}
	if c := n.Counts(); c["notifications_failed"] != 1 || c["notifications_dropped"] != 0 {
		t.Errorf("counted %v", c)
	}
}

// Nobody waits for a program that does not listen: what does not fit is dropped, and counted. Nobody at all is told by none.
func TestNotifierIsBounded(t *testing.T) {
	n, err := NewNotifier("unix:///nowhere/n.sock", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range maxNotifications + 7 { // it does not run
		n.Send(Notification{Type: Ready})
	}
	if c := n.Counts(); c["notifications_dropped"] != 7 {
		t.Errorf("counted %v", c)
	}
	var none *Notifier
	none.Send(Notification{})
	if err := none.Run(t.Context()); err != nil || none.Counts() != nil {
		t.Error(err, none.Counts())
	}
	if _, err := NewNotifier("tcp://127.0.0.1:1", nil); err == nil {
		t.Error("by tcp")
	}
}
