package quic

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"ferry/internal/identity"
	"ferry/internal/proto"
)

// controlOf returns the congestion control of a connection that has ended.
func controlOf(t *testing.T, q *quic.Conn) reflect.Value {
	t.Helper()
	select {
	case <-q.Context().Done():
	case <-time.After(patience):
		t.Fatal("the connection does not end")
	}
	c, err := inside(reflect.ValueOf(q), "sentPacketHandler", "congestion")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func checkStanding(t *testing.T, who string, control reflect.Value) {
	t.Helper()
	reno, err := inside(control, "reno")
	if err != nil {
		t.Fatal(err)
	}
	n, err := inside(control, "cubic", "numConnections")
	if err != nil {
		t.Fatal(err)
	}
	if reno.Bool() || n.Int() != flows {
		t.Errorf("%s: New Reno %t, Cubic for %d connections; want %d", who, reno.Bool(), n.Int(), flows)
	}
}

// Both ends stand for many connections, and the gateway still does when the client has moved. It fails when the library has
// changed what congestion.go changes: look there.
func TestCongestion(t *testing.T) {
	noGoroutines(t)
	var r *relay
	client, server := pairBy(t, func(g netip.AddrPort) netip.AddrPort { r = newRelay(t, g, 0); return r.addr() })
	turns := func(n int) {
		for range n {
			write(t, client, request())
			read(t, server, proto.ControlLen)
			write(t, server, request())
			read(t, client, proto.ControlLen)
		}
	}
	before := server.RemoteAddr().String()
	r.rebind(t)
	for deadline := time.Now().Add(patience); server.RemoteAddr().String() == before; turns(1) {
		if time.Now().After(deadline) {
			t.Fatal("the gateway does not follow")
		}
	}
	turns(50) // many more than ACK frames need to be sent, to arrive and to be acknowledged
	client.Close()
	server.Close()
	checkStanding(t, "client", controlOf(t, client.conn.q))
	checkStanding(t, "gateway", controlOf(t, server.conn.q))
}

// What other protocols dial and listen by is no different.
func TestRawCongestion(t *testing.T) {
	noGoroutines(t)
	key := identity.NewKey()
	l, err := ListenRaw(t.Context(), endpointOf(netip.MustParseAddrPort("127.0.0.1:0")), key.Server(everybody))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan *Raw, 1)
	go func() {
		defer close(dialled)
		if r, err := DialRaw(t.Context(), endpointOf(l.Addr().(Addr).AddrPort()), nil, identity.NewKey().Client(identity.Tunnel, key.Public().Pin())); err == nil {
			dialled <- r
		}
	}()
	p, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server, err := p.Connect(t.Context())
	client := <-dialled
	if err != nil || client == nil {
		t.Fatal(err)
	}
	client.Close()
	server.Close()
	checkStanding(t, "client", controlOf(t, client.Conn))
	checkStanding(t, "gateway", controlOf(t, server.Conn))
}

// Where the library is another one nothing is changed, and nothing breaks.
func TestOtherLibrary(t *testing.T) {
	type cubic struct{ numConnections int }
	type sender struct {
		reno  bool
		cubic *cubic
	}
	type text struct {
		reno  string
		cubic *cubic
	}
	for _, tt := range []struct {
		name    string
		control any
		ok      bool
	}{
		{"as it is", &sender{true, &cubic{1}}, true},
		{"none", nil, false},
		{"no Cubic", &sender{reno: true}, false},
		{"no fields", &struct{}{}, false},
		{"no pointer", sender{true, &cubic{1}}, false},
		{"another type", &text{"on", &cubic{1}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := standFor(reflect.ValueOf(tt.control), 8)
			if (err == nil) != tt.ok {
				t.Fatal(err)
			}
			s, ok := tt.control.(*sender)
			if ok && (s.reno == tt.ok || s.cubic != nil && s.cubic.numConnections != 8) {
				t.Errorf("got %+v", s)
			}
		})
	}
	if stand(new(quic.Conn)) == nil || standing(new(quic.Listener)) == nil || standHandler(reflect.ValueOf(3)) == nil {
		t.Error("what has nothing inside was changed")
	}
}
