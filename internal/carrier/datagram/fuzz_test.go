package datagram

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/identity"
)

// helloOf returns the first datagrams of a client.
func helloOf(tb testing.TB) (all [][]byte) {
	n := newNetwork()
	got := make(chan []byte, 10)
	n.fate = func(_, _ netip.AddrPort, p []byte) []time.Duration { got <- p; return nil }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with ctx
		_, _ = Dial(ctx, n.open(clientAt, 1472), Addr{Remote: netip.MustParseAddrPort(gatewayAt)},
			identity.NewKey().Client(identity.Tunnel, identity.NewKey().Public().Pin()))
	}()
	defer cancel()
	return [][]byte{<-got, <-got}
}

// FuzzGateway sends two datagrams to a gateway: it never answers with more than came.
// exam: M14, R15
func FuzzGateway(f *testing.F) {
	first := helloOf(f)
	f.Add(first[0], first[1], true)
	f.Add(first[1], first[0], false)
	f.Add(first[0][:600], first[0], true)
	f.Add(append(appendLong(nil, longHeader{kind: typeHandshake, id: 5}), make([]byte, 1200)...), first[0], true)
	f.Add(make([]byte, 33), []byte{0x83, 1}, false)
	gateway := identity.NewKey().Server(everybody)
	f.Fuzz(func(t *testing.T, a, b []byte, cookies bool) {
		if len(a)+len(b) > LargeChunk/2 {
			return
		}
		n := newNetwork()
		sent := 0
		answers := make(chan int, 1000)
		n.fate = func(_, _ netip.AddrPort, p []byte) []time.Duration { answers <- len(p); return nil }
		c := Config{}
		if cookies {
			c.Cookies = 1
		}
		l := Listen(n.open(gatewayAt, 1472), c)
		for _, p := range [][]byte{a, b} {
			n.arrive(netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt), p)
		}
		accepted := make(chan bool)
		go func() { // ends with the listener
			defer close(accepted)
			for {
				p, err := l.Accept()
				if err != nil {
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
				_, _, _, err = p.Handshake(ctx, gateway)
				cancel()
				if err == nil {
					t.Error("a handshake without a key")
				}
			}
		}()
		time.Sleep(3 * time.Millisecond)
		_ = l.Close()
		<-accepted
		close(answers)
		for n := range answers {
			sent += n
		}
		if sent > len(a)+len(b) {
			t.Errorf("%d bytes were answered to %d", sent, len(a)+len(b))
		}
	})
}
