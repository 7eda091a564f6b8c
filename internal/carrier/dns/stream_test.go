package dns

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// However many questions come by one connection at once, each is answered: those of the zone, and those of clients that have nothing to be told.
func TestPipelined(t *testing.T) {
	_, e := listen(t, "127.0.0.1")
	z := newZone("t.example.org")
	for name, tt := range map[string]struct {
		many     int
		question func(i int) []byte
	}{
		"the zone's": {2000, func(i int) []byte {
			return ask(t, "t.example.org.", dnsmessage.TypeSOA, dnsmessage.ClassINET, 0)
		}},
		"polls": {8 * maxOwed, func(i int) []byte { return appendQuestion(nil, 0, z, query{client: uint64(i), number: 1}) }},
		"tests": {500, func(i int) []byte {
			return appendQuestion(nil, 0, z, query{client: 1, number: uint32(i), test: true, data: []byte{3, 0}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp4", netip.AddrPortFrom(netip.MustParseAddr(e.Host), uint16(e.Port)).String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			var all []byte
			for i := range tt.many {
				m := tt.question(i)
				binary.BigEndian.PutUint16(m, uint16(i))
				all = append(binary.BigEndian.AppendUint16(all, uint16(len(m))), m...)
			}
			var asking sync.WaitGroup
			defer asking.Wait()
			asking.Go(func() { _, _ = conn.Write(all) })
			seen := map[uint16]bool{}
			var b [maxMessage]byte
			for len(seen) < tt.many {
				if _, err := io.ReadFull(conn, b[:2]); err != nil {
					t.Fatalf("behind %d of %d answers: %v", len(seen), tt.many, err)
				}
				m := b[:binary.BigEndian.Uint16(b[:])]
				if _, err := io.ReadFull(conn, m); err != nil {
					t.Fatal(err)
				}
				seen[binary.BigEndian.Uint16(m)] = true
			}
		})
	}
}

// Answers that are lost hold nobody up for long, and no more wait to be read than were asked for.
func TestOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newStream(nil, netip.AddrPort{})
		closed := make(chan struct{})
		start := time.Now()
		for range maxOwed {
			x.owe(closed)
		}
		if !time.Now().Equal(start) {
			t.Error("it waits while nothing is owed")
		}
		if !x.owe(closed) || time.Since(start) != owedTime {
			t.Errorf("it has waited for %v", time.Since(start))
		}
		x.paid()
		if start = time.Now(); !x.owe(closed) || !time.Now().Equal(start) {
			t.Error("it waits though there was an answer")
		}
		for range 2 * maxOwed {
			x.send([]byte("answer"))
		}
		if len(x.out) != maxOwed {
			t.Errorf("%d answers wait", len(x.out))
		}
		close(closed)
		if x.owe(closed) {
			t.Error("it goes on though the gate is closed")
		}
	})
}
