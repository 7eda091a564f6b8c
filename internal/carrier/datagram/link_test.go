package datagram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/identity"
	"ferry/internal/proto"
)

// packetOf returns a bare IPv4 packet of n bytes.
func packetOf(n int) []byte {
	b := bytes.Repeat([]byte{0xee}, n)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return b
}

// lost is the fate of all datagrams where nothing arrives.
func lost(netip.AddrPort, netip.AddrPort, []byte) []time.Duration { return nil }

// What comes twice is taken once, whoever sends it again and whenever.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		s := drain(gateway)
		var packets [][]byte
		plain := x.fate
		x.change(func(from, to netip.AddrPort, p []byte) []time.Duration {
			if from.String() == clientAt && !isLong(p) {
				packets = append(packets, p)
			}
			return plain(from, to, p)
		})
		for range 20 {
			if err := client.Write(packetOf(100), nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		want := s.got()
		if len(want) != 20*(100+proto.NumberLen) {
			t.Fatalf("%d bytes have come", len(want))
		}
		for _, p := range packets {
			x.arrive(netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt), p)
			x.arrive(netip.MustParseAddrPort("203.0.113.9:9"), netip.MustParseAddrPort(gatewayAt), p)
		}
		synctest.Wait()
		if got := s.got(); !bytes.Equal(got, want) {
			t.Errorf("%d bytes more", len(got)-len(want))
		}
		if n := x.listener.Drops()["replayed"]; n != uint64(2*len(packets)) {
			t.Errorf("%d were counted, want %d", n, 2*len(packets))
		}
		if got := gateway.RemoteAddr().String(); got != clientAt {
			t.Errorf("a replay has moved the connection to %s", got)
		}
		_, _ = client.Close(), gateway.Close()
		<-s.done
	})
}

// A packet that was overtaken is taken, but says nothing of where the other end is now.
func TestOldPacketMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		s := drain(gateway)
		plain := x.fate
		var old []byte
		x.change(func(_, _ netip.AddrPort, p []byte) []time.Duration { old = p; return nil })
		_ = client.Write(packetOf(50), nil)
		x.change(plain)
		_ = client.Write(packetOf(60), nil)
		time.Sleep(time.Second)
		x.arrive(netip.MustParseAddrPort("203.0.113.9:9"), netip.MustParseAddrPort(gatewayAt), old)
		synctest.Wait()
		if got := gateway.RemoteAddr().String(); got != clientAt {
			t.Errorf("the connection has moved to %s", got)
		}
		if n := len(s.got()); n != 110+2*proto.NumberLen {
			t.Errorf("%d bytes have come", n)
		}
		_, _ = client.Close(), gateway.Close()
		<-s.done
	})
}

// Whatever is changed in a packet is noticed, and dropped without an answer.
func TestForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		s := drain(gateway)
		time.Sleep(time.Second)
		before := x.by(gatewayAt)
		var p []byte
		x.change(func(_, _ netip.AddrPort, b []byte) []time.Duration { p = b; return nil })
		if err := client.Write(packetOf(64), nil); err != nil {
			t.Fatal(err)
		}
		for i := range p {
			for _, bit := range []byte{1, 0x80} {
				b := bytes.Clone(p)
				b[i] ^= bit
				if i < idLen {
					continue // for another connection
				}
				x.arrive(netip.MustParseAddrPort("203.0.113.9:9"), netip.MustParseAddrPort(gatewayAt), b)
			}
		}
		for n := range p {
			x.arrive(netip.MustParseAddrPort("203.0.113.9:9"), netip.MustParseAddrPort(gatewayAt), p[:n])
		}
		synctest.Wait()
		if got := s.got(); len(got) > 0 || gateway.RemoteAddr().String() != clientAt {
			t.Errorf("%d bytes were taken; the other end is %s", len(got), gateway.RemoteAddr())
		}
		if n := x.by(gatewayAt) - before; n != 0 {
			t.Errorf("%d bytes were answered", n)
		}
		if err := gateway.failure(); err != nil {
			t.Errorf("the connection has ended: %v", err)
		}
		x.arrive(netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt), p)
		synctest.Wait()
		if len(s.got()) == 0 {
			t.Error("the packet itself is not taken")
		}
		gateway.forged = maxForged
		p[len(p)-1]++
		x.arrive(netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt), p)
		if err := s.end(t); err != ErrForged {
			t.Errorf("after too many: got %v, want %v", err, ErrForged)
		}
		_, _ = client.Close(), gateway.Close()
		<-s.done
	})
}

// A client whose address changes goes on; the new address gets no more than came from it until it has answered.
// exam: R15
func TestRoaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		atClient, atGateway := drain(client), drain(gateway)
		time.Sleep(time.Second)
		moved := netip.MustParseAddrPort("203.0.113.50:4000")
		plain := x.fate
		came, went := 0, 0
		x.move(func(a netip.AddrPort) netip.AddrPort {
			if a.String() == clientAt {
				return moved
			}
			return a
		})
		x.change(func(from, to netip.AddrPort, p []byte) []time.Duration {
			switch {
			case from == moved:
				came += len(p)
			case to == moved:
				went += len(p)
				return nil // not proven as long as this is so
			}
			return plain(from, to, p)
		})
		if err := client.Write(packetOf(200), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		if got := gateway.RemoteAddr().String(); got != moved.String() {
			t.Fatalf("the other end is %s, want %s", got, moved)
		}
		for range 100 {
			if err := gateway.Write(packetOf(1000), nil); err != nil {
				t.Fatal(err)
			}
		}
		if went > came || went == 0 {
			t.Errorf("%d bytes went to where %d came from", went, came)
		}
		x.change(plain)
		time.Sleep(time.Second)
		if err := client.Write(packetOf(200), nil); err != nil { // brings the challenge about once more
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for range 10 {
			if err := gateway.Write(packetOf(1000), nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if n := len(atClient.got()); n != 10*(1000+proto.NumberLen) {
			t.Errorf("%d bytes have come to the new address", n)
		}
		if n := len(atGateway.got()); n != 2*(200+proto.NumberLen) {
			t.Errorf("%d bytes have come from the new address", n)
		}
		_, _ = client.Close(), gateway.Close()
		<-atClient.done
		<-atGateway.done
	})
}

// Who acknowledges nothing is dead; who has nothing to acknowledge is not.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		a, b := drain(client), drain(gateway)
		time.Sleep(time.Hour)
		if err := errors.Join(client.failure(), gateway.failure()); err != nil {
			t.Fatal(err)
		}
		x.change(lost)
		start := time.Now()
		if err := client.Write(hello(1), nil); err != nil {
			t.Fatal(err)
		}
		if err := a.end(t); err != ErrSilent || time.Since(start) < patience || time.Since(start) > patience+2*maxTimeout {
			t.Errorf("got %v after %v, want %v after %v", err, time.Since(start), ErrSilent, patience)
		}
		if _, err := client.TryWrite(packetOf(20)); err == nil {
			t.Error("a dead connection takes items")
		}
		_, _ = client.Close(), gateway.Close()
		<-b.done
	})
}

// Keys change while data flows, both ways, and what was on its way meanwhile is taken too.
func TestKeyUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		a, b := drain(client), drain(gateway)
		time.Sleep(time.Second)
		r := rand.New(rand.NewPCG(1, 1))
		x.change(lossy(r, 0, 0, 10*time.Millisecond, 5*time.Millisecond)) // in any order
		const each = 30
		for gen := range uint64(3) {
			for _, l := range []*Link{client, gateway} {
				l.mu.Lock()
				l.levels[levelData].number = (gen+1)<<generation - each/2
				l.mu.Unlock()
				for range each {
					if err := l.Write(packetOf(50), nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if client.levels[levelData].in.gen != gen+1 || gateway.levels[levelData].in.gen != gen+1 {
				t.Errorf("generations %d and %d, want %d", client.levels[levelData].in.gen, gateway.levels[levelData].in.gen, gen+1)
			}
		}
		for name, s := range map[string]*sink{"client": a, "gateway": b} {
			if n := len(s.got()); n != 3*each*(50+proto.NumberLen) {
				t.Errorf("%s: got %d bytes, want %d", name, n, 3*each*(50+proto.NumberLen))
			}
		}
		_, _ = client.Close(), gateway.Close()
		<-a.done
		<-b.done
	})
}

// A peer that sends no items, or cut ones, harms nobody but itself.
func TestMalformedItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		s := drain(gateway)
		seal := func(plain []byte) {
			client.mu.Lock()
			defer client.mu.Unlock()
			v := &client.levels[levelData]
			p := binary.BigEndian.AppendUint64(nil, client.peer)
			p = binary.BigEndian.AppendUint64(p, v.number)
			p = append(p, plain...)
			k, _ := v.out.at(v.number)
			var n nonce
			p = k.seal(&n, p, shortLen, v.number)
			v.number++
			x.arrive(netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt), p)
		}
		for _, plain := range [][]byte{
			{0x45, 0}, packetOf(100)[:99], {0x81, 0xff, 0xff, 0xff}, {9, 9, 9}, {frameStream, 0}, {frameAck, 1, 2}, {0xf0},
			bytes.Repeat([]byte{0x60}, 100),
		} {
			seal(plain)
		}
		synctest.Wait()
		if got := s.got(); len(got) > 0 {
			t.Errorf("got %x", got)
		}
		if n := x.listener.Drops()["malformed"]; n != 8 {
			t.Errorf("%d were counted, want 8: %v", n, x.listener.Drops())
		}
		seal(appendFrame(nil, frame{kind: frameStream, data: []byte{0xf0, 1, 2, 3}}))
		if err := s.end(t); err != ErrItem {
			t.Errorf("got %v, want %v", err, ErrItem)
		}
		_, _ = client.Close(), gateway.Close()
	})
}

// What nobody fetches is dropped, not kept.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		for range 4000 {
			if err := client.Write(packetOf(1400), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if n := gateway.queued.Load(); n > queueBytes || n < queueBytes/2 {
			t.Errorf("%d bytes wait, want up to %d", n, queueBytes)
		}
		if x.listener.Drops()["queue"] == 0 {
			t.Error("nothing was dropped")
		}
		gateway.Release()
		if n := gateway.queued.Load(); n != 0 {
			t.Errorf("%d bytes wait after Release", n)
		}
		_, _ = client.Close(), gateway.Close()
		client.Release()
	})
}

// Close ends whoever waits, and comes back by itself.
func TestClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		client, gateway := x.connect(clientAt)
		a, b := drain(client), drain(gateway)
		if err := client.Write(hello(7), nil); err != nil {
			t.Fatal(err)
		}
		_, _ = client.Close(), client.Close()
		if err := a.end(t); err != net.ErrClosed {
			t.Errorf("client: got %v, want %v", err, net.ErrClosed)
		}
		if err := b.end(t); err != io.EOF {
			t.Errorf("gateway: got %v, want %v", err, io.EOF)
		}
		if got := b.got(); !bytes.Equal(got, hello(7)) {
			t.Errorf("before the end: got %q", got)
		}
		_ = gateway.Close()
		x.close()
		if _, err := x.dial(clientAt, identity.NewKey(), x.gateway.Public().Pin()); err == nil {
			t.Error("a closed gateway answers")
		}
	})
}
