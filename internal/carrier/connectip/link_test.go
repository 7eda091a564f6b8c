package connectip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// dialAt dials as a device that knows the gateway by a key.
func dialAt(t testing.TB, e carrier.Endpoint, gateway identity.Key) (carrier.Link, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := Dial(ctx, e, nil, identity.NewKey().Client(identity.Tunnel, gateway.Public().Pin()))
	if err == nil {
		t.Cleanup(func() { _ = l.Close() })
	}
	return l, err
}

// TestWrongGateway: the key that counts is the one of the handshake inside.
func TestWrongGateway(t *testing.T) {
	g := newGateway(t, Gate{})
	if _, err := dialAt(t, g.endpoint(), identity.NewKey()); !errors.Is(err, identity.ErrWrongKey) {
		t.Errorf("got %v, want %v", err, identity.ErrWrongKey)
	}
	if a := g.next(t); a.err == nil {
		t.Error("the gateway has a client that does not know it")
	}
}

// TestUnknownDevice: whom the gateway refuses hears so.
func TestUnknownDevice(t *testing.T) {
	key := identity.NewKey()
	g := newGateway(t, Gate{TLS: key.Server(func(identity.Protocol, identity.Public) error { return errUnknown })})
	l, err := dialAt(t, g.endpoint(), key)
	if err == nil {
		_, _, _, err = l.Fill()
	}
	if err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("the device hears %v", err)
	}
	if a := g.next(t); !errors.Is(a.err, errUnknown) {
		t.Errorf("the gateway has %v", a.err)
	}
}

// TestDevicesNotAllowed: where a listener is for clients without a key, a device is told.
func TestDevicesNotAllowed(t *testing.T) {
	key := identity.NewKey()
	l, err := Listen(t.Context(), carrier.Endpoint{Scheme: "connect-ip", Host: "127.0.0.1"}, key.Outer())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var shaking sync.WaitGroup
	defer shaking.Wait()
	shaking.Go(func() {
		if p, err := l.Accept(); err == nil {
			if _, _, _, err := p.Handshake(t.Context(), Gate{Anybody: true}); !errors.Is(err, ErrRequest) {
				t.Errorf("the gateway has %v", err)
			}
		}
	})
	at := l.Addr().(Addr).AddrPort()
	if _, err := dialAt(t, endpointOf(at), key); err == nil || !strings.Contains(err.Error(), "takes no devices") {
		t.Errorf("got %v", err)
	}
}

// TestNobody: where nothing listens a dial ends with its context.
func TestNobody(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	key := identity.NewKey()
	_, err = Dial(ctx, endpointOf(udp.LocalAddr().(*net.UDPAddr).AddrPort()), nil, key.Client(identity.Tunnel, key.Public().Pin()))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "is vpnsrv listening") {
		t.Errorf("got %v", err)
	}
}

// TestNoPacket: a client whose request is granted, and that says nothing behind it, keeps the gateway neither when it goes, nor
// when its time is over, nor when it is turned away.
func TestNoPacket(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(client io.Closer, p *Pending, late func())
		want error
	}{
		{"it goes", func(client io.Closer, _ *Pending, _ func()) { _ = client.Close() }, io.EOF},
		{"its time is over", func(_ io.Closer, _ *Pending, late func()) { late() }, context.Canceled},
		{"it is turned away", func(_ io.Closer, p *Pending, _ func()) { _ = p.Close() }, net.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := identity.NewKey()
			l, err := Listen(t.Context(), carrier.Endpoint{Scheme: "connect-ip", Host: "127.0.0.1"}, key.Outer())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			come, ended := make(chan *Pending, 1), make(chan error, 1)
			go func() { // ends with the handshake
				p, err := l.Accept()
				if err == nil {
					come <- p
					_, _, _, err = p.Handshake(ctx, Gate{TLS: key.Server(everybody)})
				}
				ended <- err
			}()
			raw, status, _ := request3Of(t, endpointOf(l.Addr().(Addr).AddrPort()), func(*http.Request) {})
			if status != http.StatusOK {
				t.Fatalf("the answer is %d", status)
			}
			tt.end(raw, await(t, come), cancel)
			if err := await(t, ended); err != tt.want {
				t.Errorf("the gateway has %v, want %v", err, tt.want)
			}
		})
	}
}

// TestCut: the end of the connection, whoever brings it about, ends what waits at the other end in order.
func TestCut(t *testing.T) {
	client, gateway := pair(t)
	var reading sync.WaitGroup
	reading.Go(func() {
		if _, _, _, err := client.Fill(); err != io.EOF {
			t.Errorf("the client hears %v", err)
		}
	})
	_ = gateway.Close()
	reading.Wait()
	if err := client.Write(packetOf(100), nil); err == nil {
		t.Error("nobody said that nobody is there")
	}
}

// TestRequests1 has requests by HTTP/1.1 that are for something else.
func TestRequests1(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"another path", func(r *http.Request) { r.URL.Path = "/" }, 404},
		{"CONNECT", func(r *http.Request) { r.Method = http.MethodPut }, 405},
		{"a proxy that does not hand on Connection", func(r *http.Request) { r.Header.Del("Connection") }, 400},
		{"a body", func(r *http.Request) { r.ContentLength = 3 }, 400},
		{"a later version of Ferry", func(r *http.Request) { r.Header.Set(headerFerry, "4") }, 400},
		{"no key", func(r *http.Request) { r.Header.Del(headerFerry) }, 403},
		{"HTTP/1.0", func(r *http.Request) { r.ProtoMinor = 0 }, 405},
	} {
		r, err := http.NewRequest(http.MethodGet, "http://gateway.example"+Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header()
		r.Header.Set("Connection", "keep-alive, Upgrade")
		tt.change(r)
		a, b := net.Pipe()
		var answering sync.WaitGroup
		answering.Go(func() {
			if _, err := Accept(b, r, Gate{TLS: identity.NewKey().Server(everybody)}); !errors.Is(err, ErrRequest) {
				t.Errorf("%s: got %v", tt.name, err)
			}
			_ = b.Close()
		})
		text, err := io.ReadAll(a)
		answering.Wait()
		if want := fmt.Sprintf("HTTP/1.1 %d %s\r\n", tt.want, http.StatusText(tt.want)); err != nil || !strings.HasPrefix(string(text), want) {
			t.Errorf("%s: got %q, %v, want %d", tt.name, text, err, tt.want)
		}
	}
}

// TestAnswers: a device is told what an answer means that is none of a gateway.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		status int
		ferry  string
		want   string
	}{
		{101, "2", ""}, {101, "", "no gateway of Ferry's"}, {404, "", "nothing proxies IP"}, {403, "", "takes no devices"},
		{502, "", "reaches no gateway"}, {200, "2", "is this the address"},
	} {
		a := &http.Response{StatusCode: tt.status, Header: http.Header{}}
		if tt.ferry != "" {
			a.Header.Set(headerFerry, tt.ferry)
		}
		err := checkAnswer(a, http.StatusSwitchingProtocols)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%d %s: got %v, want %q", tt.status, tt.ferry, err, tt.want)
		}
	}
}

// Two ends that close at the same moment, each with a last word that nobody reads any more, do not wait for each other.
func TestBothClose(t *testing.T) {
	client, gateway := pair(t)
	bye := proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown})
	if err := errors.Join(client.Write(bye, nil), gateway.Write(bye, nil)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	var closing sync.WaitGroup
	for _, l := range []carrier.Link{client, gateway} {
		closing.Go(func() { _ = l.Close() })
	}
	closing.Wait()
	if took := time.Since(begin); took >= lingerTime {
		t.Errorf("it took %v", took)
	}
}
