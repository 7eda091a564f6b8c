package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

// A fake resolver asks a gateway for whoever asks it, from several networks, as those of large operators do.
//
//	client ── question ──▶ fake ── from any of its addresses, in any case, again when nothing comes ──▶ gateway
type fake struct {
	t       testing.TB
	at      netip.AddrPort // of the gateway
	conn    *net.UDPConn
	tcp     net.Listener
	closed  bool // to TCP
	work    sync.WaitGroup
	sources []string
	lose    float64      // of the answers of the gateway
	mix     bool         // the case of letters
	lazy    bool         // what is truncated is handed on
	largest atomic.Int64 // of messages that pass by UDP; 0: any
}

func newFake(t testing.TB, e carrier.Endpoint, change func(*fake)) (*fake, carrier.Endpoint) {
	t.Helper()
	f := &fake{t: t, at: netip.AddrPortFrom(netip.MustParseAddr(e.Host), uint16(e.Port)), sources: []string{"127.0.0.1"}}
	if change != nil {
		change(f)
	}
	var err error
	if f.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	for f.tcp == nil {
		if f.tcp, err = net.Listen("tcp4", f.conn.LocalAddr().String()); err != nil { // the port is taken for TCP
			_ = f.conn.Close()
			if f.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if f.closed {
		_ = f.tcp.Close()
	}
	f.work.Go(f.read)
	f.work.Go(f.accept)
	t.Cleanup(func() { _, _ = f.conn.Close(), f.tcp.Close(); f.work.Wait() })
	e.Port = uint32(f.conn.LocalAddr().(*net.UDPAddr).Port)
	return f, e
}

func (f *fake) read() {
	for {
		b := make([]byte, maxMessage)
		n, from, err := f.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		f.work.Go(func() {
			if a := f.resolve(b[:n], !f.lazy); a != nil {
				if n := int(f.largest.Load()); n > 0 && len(a) > n {
					return
				}
				_, _ = f.conn.WriteToUDPAddrPort(a, from)
			}
		})
	}
}

// accept takes one question of each connection.
func (f *fake) accept() {
	for {
		conn, err := f.tcp.Accept()
		if err != nil {
			return
		}
		f.work.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			var b [maxMessage]byte
			if _, err := io.ReadFull(conn, b[:2]); err != nil {
				return
			}
			n := binary.BigEndian.Uint16(b[:])
			if _, err := io.ReadFull(conn, b[:n]); err != nil {
				return
			}
			if a := f.resolve(b[:n], true); a != nil {
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}
		})
	}
}

// resolve asks the gateway, up to five times, and returns what it says.
func (f *fake) resolve(m []byte, tcp bool) []byte {
	d := net.Dialer{Timeout: time.Second, LocalAddr: &net.UDPAddr{IP: net.ParseIP(f.sources[rand.IntN(len(f.sources))])}}
	conn, err := d.Dial("udp4", f.at.String())
	if err != nil {
		f.t.Error(err)
		return nil
	}
	defer conn.Close()
	own := bytes.Clone(m)
	n := nameLen(own[messageHeader:])
	for i, c := range own[messageHeader : messageHeader+n] {
		if f.mix && 'a' <= c && c <= 'z' && rand.IntN(2) == 0 {
			own[messageHeader+i] -= 'a' - 'A'
		}
	}
	var b [maxMessage]byte
	for range 5 {
		if _, err := conn.Write(own); err != nil {
			return nil
		}
		_ = conn.SetReadDeadline(time.Now().Add(hold + 200*time.Millisecond))
		k, err := conn.Read(b[:])
		if err != nil || rand.Float64() < f.lose {
			continue
		}
		if tcp && b[2]&(flagTruncated>>8) != 0 {
			if k = f.byTCP(conn.LocalAddr().(*net.UDPAddr).IP, own, b[:]); k == 0 {
				return nil
			}
		}
		if !bytes.Equal(b[messageHeader:messageHeader+n], own[messageHeader:messageHeader+n]) {
			f.t.Errorf("asked for %q, the answer is to %q", own[messageHeader:messageHeader+n], b[messageHeader:messageHeader+n])
		}
		copy(b[messageHeader:], m[messageHeader:messageHeader+n])
		return bytes.Clone(b[:k])
	}
	return nil
}

func (f *fake) byTCP(from net.IP, m, b []byte) int {
	d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: from}}
	conn, err := d.Dial("tcp4", f.at.String())
	if err != nil {
		return 0
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	n, err := exchange(conn, b, m)
	if err != nil {
		return 0
	}
	return n
}

// numbered returns packets that say which one they are, one item each.
func numbered(count, size int) (all [][]byte) {
	for i := range count {
		b := make([]byte, size)
		b[0], b[8] = 0x45, 64
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2, byte(i >> 8), byte(i)})
		all = append(all, b)
	}
	return all
}

// pass sends packets, each of which has to come once.
func pass(t *testing.T, from, to carrier.Link, all [][]byte) {
	t.Helper()
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		for _, p := range all {
			_ = from.Write(p, nil)
		}
		_ = from.Write(proto.AppendGoodbye(nil, proto.GoodbyeMessage{}), nil) // which must not be lost
	})
	seen, last := map[uint16]bool{}, false
	late := time.AfterFunc(time.Minute, func() { _ = to.Close() })
	defer late.Stop()
	for {
		buf, start, end, err := to.Fill()
		if err != nil {
			t.Fatalf("%d of %d packets came, the last word: %t; %v", len(seen), len(all), last, err)
		}
		for b := buf[start:end]; len(b) > 0; {
			n, err := proto.NextItem(b)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			switch proto.TravelOf(b) {
			case proto.TravelCounted:
				nr := binary.BigEndian.Uint16(b[20:])
				if seen[nr] {
					t.Errorf("packet %d came twice", nr)
				}
				seen[nr] = true
			case proto.TravelSurely:
				last = true
			}
			b = b[n:]
		}
		to.Consume(end - start)
		if last && len(seen) == len(all) {
			return
		}
	}
}

// Through resolvers of many addresses, that change the case of letters, and that ask again when answers are lost, the connection is one. What is lost between
// resolver and gateway costs nothing, for the same question has the same answer.
func TestResolver(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*fake)
	}{
		{"one", nil},
		{"many addresses", func(f *fake) { f.sources = []string{"127.0.0.1", "127.0.1.1", "127.0.2.1", "127.0.3.1", "127.0.3.2"} }},
		{"every case", func(f *fake) { f.mix = true }},
		{"truncated ones are handed on", func(f *fake) {
			f.sources = []string{"127.0.0.1", "127.0.1.1", "127.0.2.1"}
			f.lazy = true
		}},
		{"TCP only", func(f *fake) { f.largest.Store(1) }},
		{"answers are lost", func(f *fake) { f.lose = 0.1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, e := listen(t, "127.0.0.1")
			_, through := newFake(t, e, tt.change)
			client, gateway := pair(t, l, through)
			pass(t, client, gateway, numbered(150, 60))
			pass(t, gateway, client, numbered(150, 60))
		})
	}
}

// Where large answers are lost, short ones are asked for.
func TestNoLargeAnswers(t *testing.T) {
	for _, closed := range []bool{false, true} {
		l, e := listen(t, "127.0.0.1")
		_, through := newFake(t, e, func(f *fake) {
			f.largest.Store(leastBuffer)
			f.closed = closed
		})
		client, gateway := pair(t, l, through)
		if gateway.Max() != smallDown-32-12 {
			t.Errorf("an answer has room for %d bytes, want %d", gateway.Max(), smallDown-32-12)
		}
		pass(t, gateway, client, numbered(100, 160))
	}
}

// When they are lost later, the connection says so.
func TestLargeAnswersCease(t *testing.T) {
	l, e := listen(t, "127.0.0.1")
	f, through := newFake(t, e, nil)
	client, gateway := pair(t, l, through)
	pass(t, gateway, client, numbered(20, 800))
	f.largest.Store(leastBuffer)
	done := make(chan struct{})
	defer func() { _ = gateway.Close(); <-done }()
	go func() {
		defer close(done)
		for {
			if gateway.Write(numbered(1, 800)[0], nil) != nil {
				return
			}
		}
	}()
	late := time.AfterFunc(20*time.Second, func() { _ = client.Close() })
	defer late.Stop()
	for {
		_, start, end, err := client.Fill()
		if err != nil {
			if !errors.Is(err, ErrLarge) {
				t.Errorf("got %v, want %v", err, ErrLarge)
			}
			return
		}
		client.Consume(end - start)
	}
}

// Where all goes by TCP, a connection ends when nobody is there any more, also while nothing happens; and goes on when only answers were lost.
func TestTCPCeases(t *testing.T) {
	l, e := listen(t, "127.0.0.1")
	f, through := newFake(t, e, func(f *fake) { f.largest.Store(1) })
	client, _ := pair(t, l, through)
	late := time.AfterFunc(unheard+given+tcpTime+5*time.Second, func() { _ = client.Close() })
	defer late.Stop()
	_, _ = f.tcp.Close(), f.conn.Close()
	for {
		_, start, end, err := client.Fill()
		if err != nil {
			if !errors.Is(err, ErrSilent) {
				t.Errorf("got %v, want %v", err, ErrSilent)
			}
			return
		}
		client.Consume(end - start)
	}
}

// One poll without an answer is enough, behind a long silence, to look whether somebody is there.
func TestSilence(t *testing.T) {
	_, e := listen(t, "127.0.0.1")
	for _, tt := range []struct {
		name        string
		there, long bool
		want        bool
	}{
		{"nobody is there", false, true, true},
		{"nobody is there, for a moment", false, false, false},
		{"an answer was lost", true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := testAsker(t)
			if tt.there {
				a.resolver = &resolver{at: netip.AddrPortFrom(netip.MustParseAddr(e.Host), uint16(e.Port)), z: a.z}
			}
			a.stream.Store(true)
			a.mu.Lock()
			a.missing(tt.long)
			a.mu.Unlock()
			select {
			case <-a.done:
				if !tt.want {
					t.Errorf("it has ended: %v", a.failure())
				}
			case <-time.After(4 * time.Second):
				if tt.want {
					t.Error("nobody is there, and it goes on")
				}
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if recent := time.Since(a.heard) < unheard; tt.there && !recent {
				t.Error("the test that was answered counts for nothing")
			}
		})
	}
}

// missing makes a question that was asked long enough ago to be given up, after a long silence or a short one. The caller holds mu.
func (a *asker) missing(long bool) {
	now := time.Now()
	a.pending[0] = pending{open: true, at: now.Add(-given)}
	if a.heard = now; long {
		a.heard = now.Add(-unheard)
	}
}

// say sends a message by UDP from an address, and returns the answer; nil: there is none.
func say(t *testing.T, from string, e carrier.Endpoint, m []byte) []byte {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr(e.Host), uint16(e.Port)).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hold + 500*time.Millisecond))
	if _, err := conn.Write(m); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, maxMessage)
	n, err := conn.Read(b)
	if err != nil {
		return nil
	}
	return b[:n]
}

// Nobody has more sent to an address than was sent from there, until it was spoken with by TCP; then that client, to that network.
// exam: R15
func TestAmplification(t *testing.T) {
	_, e := listen(t, "127.0.0.1")
	test := func(client uint64) []byte {
		return appendQuestion(nil, 1, example, query{client: client, number: rand.Uint32(), test: true, data: []byte{3, 0x86}})
	}
	poll := func(client uint64, n int) []byte {
		return appendQuestion(nil, 1, example, query{client: client, number: rand.Uint32(), data: make([]byte, n)})
	}
	for name, m := range map[string][]byte{
		"a test": test(1), "a poll": poll(1, 0), "data": poll(1, example.maxUp()),
		"SOA":     ask(t, "t.example.org.", dnsmessage.TypeSOA, dnsmessage.ClassINET, 4096),
		"NS":      ask(t, "t.example.org.", dnsmessage.TypeNS, dnsmessage.ClassINET, 4096),
		"ANY":     ask(t, "t.example.org.", dnsmessage.TypeALL, dnsmessage.ClassINET, 4096),
		"AXFR":    ask(t, "t.example.org.", dnsmessage.TypeAXFR, dnsmessage.ClassINET, 4096),
		"A of ns": ask(t, "ns.t.example.org.", dnsmessage.TypeA, dnsmessage.ClassINET, 4096),
		"CHAOS":   ask(t, "version.bind.", dnsmessage.TypeTXT, dnsmessage.ClassCHAOS, 4096),
		"DNSKEY":  ask(t, "t.example.org.", 48, dnsmessage.ClassINET, 4096),
		"garbage": []byte("GET / HTTP/1.1\r\nHost: t.example.org\r\n\r\n"),
	} {
		if a := say(t, "127.0.0.1", e, m); a == nil || len(a) > len(m) {
			t.Errorf("%s: %d bytes for %d", name, len(a), len(m))
		}
	}
	r := resolver{z: example, at: netip.AddrPortFrom(netip.MustParseAddr(e.Host), uint16(e.Port))}
	if err := r.try(t.Context(), 1, manner{takes: maxDown}, time.Second); !errors.Is(err, errTruncated) {
		t.Errorf("before: %v", err)
	}
	if err := r.try(t.Context(), 1, manner{stream: true, takes: maxDown}, time.Second); err != nil {
		t.Errorf("by TCP: %v", err)
	}
	if err := r.try(t.Context(), 1, manner{takes: maxDown}, time.Second); err != nil {
		t.Errorf("behind it: %v", err)
	}
	for name, a := range map[string][]byte{
		"another client":              say(t, "127.0.0.1", e, test(2)),
		"another network":             say(t, "127.0.1.1", e, test(1)),
		"a poll from another network": say(t, "127.0.1.1", e, poll(1, 0)),
	} {
		if len(a) == 0 || len(a) > len(test(1)) || a[2]&(flagTruncated>>8) == 0 {
			t.Errorf("%s: %x", name, a)
		}
	}
	if a := say(t, "127.0.0.7", e, test(1)); len(a) < maxDown {
		t.Errorf("its neighbour: %d bytes", len(a))
	}
}

// What is known of clients is bounded, and those who are given something stay.
func TestClients(t *testing.T) {
	var c clients
	now := time.Now()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) }
	c.prove(7, at(0), now)
	c.keep(7, 1, []byte("datagram"), now)
	for i := range 3 * maxClients {
		now = now.Add(time.Millisecond)
		c.prove(uint64(1000+i), at(i), now)
		if len(c.all) > maxClients {
			t.Fatalf("%d clients are known", len(c.all))
		}
	}
	if !c.known(7, at(0), now) {
		t.Error("one who was given something is forgotten")
	}
	if b, ok := c.again(nil, 7, 1); !ok || string(b) != "datagram" {
		t.Errorf("got %q", b)
	}
	for i := range 2 * maxProven {
		c.prove(7, at(i), now)
	}
	if c.known(7, at(0), now) || !c.known(7, at(2*maxProven-1), now) {
		t.Error("the oldest network is known, or the newest is not")
	}
	for i := range uint32(3 * maxSaid) {
		c.keep(7, i, make([]byte, maxDown), now)
	}
	if _, ok := c.again(nil, 7, 3*maxSaid-1); !ok || c.said != maxSaid*maxDown {
		t.Errorf("%t, and %d bytes are kept", ok, c.said)
	}
	if _, ok := c.again(nil, 7, 0); ok {
		t.Error("the first answer is kept for ever")
	}
	for id := range c.all {
		for i := range uint32(8) {
			c.keep(id, i, make([]byte, maxDown), now)
		}
	}
	if c.said > maxSaidBytes+maxDown {
		t.Errorf("%d bytes are kept", c.said)
	}
}

// A datagram is given to strangers, too: that a connection is not known, for one. Who has one given to as many clients as there may be keeps nobody
// out by that.
func TestClientsOfStrangers(t *testing.T) {
	var c clients
	now := time.Now()
	at := netip.MustParseAddr("192.0.2.1")
	for id := range uint64(maxClients) {
		c.prove(id, at, now)
		c.keep(id, 1, []byte("unknown"), now)
	}
	now = now.Add(time.Second)
	for id := uint64(1 << 30); id < 1<<30+100; id++ {
		c.prove(id, at, now)
		if !c.known(id, at, now) {
			t.Fatal("there is no room for one more")
		}
	}
	if len(c.all) != maxClients || c.said > maxClients*maxDown {
		t.Errorf("%d clients are known, and %d bytes are kept", len(c.all), c.said)
	}
}

// Nor does who has them kept until there is no room for more: what is said to others can be asked for again.
func TestSaidToStrangers(t *testing.T) {
	var c clients
	now := time.Now()
	at := netip.MustParseAddr("192.0.2.1")
	for id := uint64(1); c.said < maxSaidBytes; id++ {
		c.prove(id, at, now)
		for n := range uint32(maxSaid) {
			c.keep(id, n, []byte("unknown"), now)
		}
	}
	now = now.Add(time.Second)
	const newcomer = 1 << 30
	c.prove(newcomer, at, now)
	for n := range uint32(1000) {
		c.keep(newcomer, n, []byte("datagram"), now)
		if b, ok := c.again(nil, newcomer, n); !ok || string(b) != "datagram" {
			t.Fatalf("datagram %d is not kept", n)
		}
	}
	total := 0
	for _, one := range c.all {
		total += len(one.said) * maxDown
	}
	if total != c.said || total > maxSaidBytes+maxDown {
		t.Errorf("%d bytes are kept, and %d are counted", total, c.said)
	}
}

// Connections of TCP are bounded, in number, in size and in time.
// exam: M14
func TestStreams(t *testing.T) {
	_, e := listen(t, "127.0.0.1")
	at := netip.AddrPortFrom(netip.MustParseAddr(e.Host), uint16(e.Port)).String()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp4", at)
		if err != nil { // it was reset already
			return nil
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		return conn
	}
	works := func(conn net.Conn) bool {
		if conn == nil {
			return false
		}
		var b [maxMessage]byte
		_, err := exchange(conn, b[:], ask(t, "t.example.org.", dnsmessage.TypeSOA, dnsmessage.ClassINET, 0))
		return err == nil
	}
	for name, bytes := range map[string][]byte{"too short": {0, 1, 0}, "too long": {0xff, 0xff, 0}} {
		conn := dial()
		_, _ = conn.Write(bytes)
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("a message that is %s is answered", name)
		}
	}
	var all []net.Conn
	for range networkStreams {
		conn := dial()
		if !works(conn) {
			t.Fatalf("connection %d does not work", len(all))
		}
		all = append(all, conn)
	}
	if works(dial()) {
		t.Error("there is no bound")
	}
	_ = all[0].Close()
	for end := time.Now().Add(5 * time.Second); !works(dial()); {
		if time.Now().After(end) {
			t.Fatal("who has gone takes the place of others")
		}
	}
}

// Who holds connections in many networks keeps nobody out: that goes which has said nothing for longest.
func TestStreamsOfMany(t *testing.T) {
	var s streams
	at := func(i int) *stream {
		x := &stream{from: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i / networkStreams), 1, 1}), 1)}
		x.said.Store(int64(1000 + i))
		return x
	}
	var all []*stream
	for i := range maxStreams {
		x := at(i)
		if victim, ok := s.add(x); !ok || victim != nil {
			t.Fatalf("connection %d: %t, and %v has to go", i, ok, victim)
		}
		all = append(all, x)
	}
	all[0].said.Store(9999)
	if victim, ok := s.add(at(maxStreams)); !ok || victim != all[1] {
		t.Errorf("%t, and %v has to go", ok, victim)
	}
	if len(s.all) != maxStreams {
		t.Errorf("there are %d connections", len(s.all))
	}
	if victim, ok := s.add(at(2 * networkStreams)); ok || victim != nil {
		t.Errorf("one network has more than its share, or %v had to go for nobody", victim)
	}
}

// Errors say what is wrong, and what to do.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(q question) []byte
		want   error
		text   string
	}{
		{"NXDOMAIN", func(q question) []byte { return appendCode(nil, &q, 0, codeName) }, ErrDelegation, "NS record"},
		{"REFUSED", func(q question) []byte { return appendCode(nil, &q, 0, codeRefused) }, ErrRefused, "name another one"},
		{"SERVFAIL", func(q question) []byte { return appendCode(nil, &q, 0, codeServer) }, ErrGateway, "does vpnsrv run"},
		{"nothing there", func(q question) []byte { return appendCode(nil, &q, 0, codeSuccess) }, ErrOther, "lead somewhere else"},
		{"another text", func(q question) []byte { return appendText(nil, &q, 'v', []byte("=spf1 -all")) }, ErrOther, "lead somewhere else"},
		{"silence", func(question) []byte { return nil }, ErrSilent, "name another one"},
		{"TCP does not get through", func(q question) []byte { return appendTruncated(nil, &q) }, ErrTCP, "port 53 of TCP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			var work sync.WaitGroup
			defer func() { _ = conn.Close(); work.Wait() }()
			work.Go(func() {
				b := make([]byte, maxMessage)
				for {
					n, from, err := conn.ReadFromUDPAddrPort(b)
					if err != nil {
						return
					}
					if q, _, ok := parseQuestion(b[:n]); ok {
						if a := tt.answer(q); a != nil {
							_, _ = conn.WriteToUDPAddrPort(a, from)
						}
					}
				}
			})
			e := carrier.Endpoint{Scheme: "dns", Host: "127.0.0.1", Port: uint32(conn.LocalAddr().(*net.UDPAddr).Port), Path: "/t.example.org"}
			_, err = Dial(t.Context(), e, nil, nil, nil)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || !strings.HasPrefix(err.Error(), "dial dns://127.0.0.1:") {
				t.Errorf("got %v, want %v and %q", err, tt.want, tt.text)
			}
		})
	}
	e := carrier.Endpoint{Scheme: "dns", Port: 53, Path: "/t.example.org"}
	if _, err := Dial(t.Context(), e, nil, nil, func() []netip.Addr { return nil }); err == nil || !strings.Contains(err.Error(), "dns://192.0.2.1/t.example.org") {
		t.Errorf("without a resolver: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, e, nil, nil, func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }); err == nil {
		t.Error("an attempt that was given up has come to something")
	}
}

// A rejecting socket is that of a way where a firewall rejects what is sent.
type rejecting struct {
	net.Conn
	writes int
}

func (r *rejecting) Write(b []byte) (int, error) { r.writes++; return len(b), nil }
func (r *rejecting) Read([]byte) (int, error) {
	return 0, os.NewSyscallError("read", syscall.EHOSTUNREACH)
}
func (r *rejecting) SetReadDeadline(time.Time) error { return nil }

// Where a firewall says that nothing passes (icmp-admin-prohibited), a test is over, and not sent as fast as that is said.
func TestRejected(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var conn rejecting
	m := appendQuestion(nil, 1, example, query{test: true, data: []byte{0, 1}})
	if _, err := new(resolver).testUDP(ctx, &conn, m); !errors.Is(err, syscall.EHOSTUNREACH) || conn.writes != 1 {
		t.Errorf("sent %d times, %v", conn.writes, err)
	}
}

// Of several resolvers one that works is enough.
func TestOneOfSeveral(t *testing.T) {
	l, e := listen(t, "127.0.0.1")
	e.Host = ""
	client, _ := pair(t, l, e, netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.1"))
	if got := client.RemoteAddr().String(); !strings.HasPrefix(got, "t.example.org by 127.0.0.1:") {
		t.Errorf("connected to %s", got)
	}
}
