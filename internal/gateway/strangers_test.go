package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/admission"
	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// A flood of one kind hides no other: each cause is named, and the rest of it counted.
func TestEachCauseIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		l := newStrangerLog(slog.New(slog.NewTextHandler(&log, nil)))
		for i := range 1000 {
			l.Info("flood", "connection refused", "from", i)
		}
		l.Info("rare", "connection refused", "from", "somebody")
		l.Info("rare", "connection refused", "from", "somebody")
		if got := log.all(); len(got) != strangerLines+1 || !strings.Contains(got[strangerLines], "cause=rare") {
			t.Errorf("%d lines:\n%s", len(got), strings.Join(got, ""))
		}
		time.Sleep(time.Second)
		l.Info("flood", "connection refused")
		l.Info("rare", "connection refused")
		got := log.all()[strangerLines+1:]
		for i, want := range []string{fmt.Sprintf("cause=flood left_out_before=%d", 1000-strangerLines), "cause=rare left_out_before=1"} {
			if len(got) != 2 || !strings.Contains(got[i], want) {
				t.Errorf("got %q, want one with %q", got, want)
			}
		}
	})
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(b))
	return len(b), nil
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// Exam, limits: ten lines a second about strangers.
func TestLogOfStrangers(t *testing.T) {
	var log lines
	c := Config{Key: identity.NewKey(), Log: slog.New(slog.NewTextHandler(&log, nil)), Limits: admission.Limits{
		SourceRate: 1e6, SourceBurst: 1e6, SourceUnknown: 1e6, SourceSessions: 1e6, Rate: 1e6, Unknown: 1e6,
		Penalty: time.Nanosecond, PenaltyMax: time.Nanosecond,
	}}
	if err := inMemory(t, c, func(l *lab) error {
		l.settle()
		before := len(log.all())
		for i := range 100 {
			l.dialTLS(identity.Join, identity.NewKey()).send(proto.AppendJoin(nil, proto.Secret{byte(i)}))
			l.dial().send(request("192.0.2.1", 0))
		}
		l.settle()
		time.Sleep(time.Second)
		l.dial().send(request("192.0.2.1", 0))
		l.settle()
		got := log.all()[before:]
		if n := len(got); n < 11 || n > 20 || !strings.Contains(got[n-1], "left_out_before=") {
			return fmt.Errorf("%d lines about 201 strangers, want about 11, of which the last says how many are left out:\n%s", n, strings.Join(got, ""))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// A shaken arrival has shaken hands already.
type shaken struct {
	carrier.Link
	key identity.Public
}

func (s shaken) Close() error { return nil } // of the arrival, not of the link

func (s shaken) Handshake(context.Context) (carrier.Link, identity.Protocol, identity.Public, error) {
	return s.Link, identity.Tunnel, s.key, nil
}

// Whose place was given away while he shook hands has no connection afterwards.
func TestEvictedLink(t *testing.T) {
	c := Config{Key: identity.NewKey(), Limits: admission.Limits{Unknown: 1}}
	if err := inMemory(t, c, func(l *lab) error {
		late, why := l.g.gate.Enter(netip.MustParseAddr("192.0.2.1"), time.Now(), func() {})
		other, _ := l.g.gate.Enter(netip.MustParseAddr("192.0.2.2"), time.Now(), func() {})
		if why != admission.Admitted || other == nil {
			return fmt.Errorf("refused: %s", why)
		}
		defer other.Leave(time.Now())
		client, gateway := net.Pipe()
		defer client.Close()
		l.g.serve(context.Background(), &listener{}, shaken{carrier.NewStream(gateway), identity.NewKey().Public()}, late)
		_ = client.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			return fmt.Errorf("the client has %v, want %v", err, io.EOF)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
