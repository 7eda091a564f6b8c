package icmp

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/netsock"
	"ferry/internal/carrier/polling"
	"ferry/internal/packet"
)

// The echos of docs/protocol.md.
func TestWire(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind byte
		e    echo
		want string
	}{
		{"poll", echoRequest, echo{identifier: 0x1234, number: 0x00050006}, "0800260f12340006" + "4672793f00050000"},
		{"question", echoRequest, echo{identifier: 0x1234, number: 0x00050006, data: []byte("abc")}, "080061ac12340006" + "4672793f00050000" + "616263"},
		{"answer", echoReply, echo{identifier: 0x1234, number: 0x00050006, held: 1500 * time.Millisecond, data: []byte("abc")},
			"000063ee12340006" + "46727921000505dc" + "616263"},
	} {
		b := append(appendHeader(nil, tt.kind, tt.e), tt.e.data...)
		if got := hex.EncodeToString(b); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if sum := packet.Checksum(b, 0); sum != 0 {
			t.Errorf("%s: the checksum is wrong by %#x", tt.name, sum)
		}
		got, ok := parse(b, tt.kind)
		if !ok || got.identifier != tt.e.identifier || got.number != tt.e.number || got.held != tt.e.held || !bytes.Equal(got.data, tt.e.data) {
			t.Errorf("%s: got %+v, %v", tt.name, got, ok)
		}
		if _, ok := parse(b, echoRequest+echoReply-tt.kind); ok {
			t.Errorf("%s is taken for the other kind", tt.name)
		}
		for n := range headerLen {
			if _, ok := parse(b[:n], tt.kind); ok {
				t.Errorf("%s: %d bytes are taken", tt.name, n)
			}
		}
	}
	if e, _ := parse(appendHeader(nil, echoReply, echo{held: time.Hour}), echoReply); e.held != 65535*time.Millisecond {
		t.Errorf("held for an hour comes as %v", e.held)
	}
}

// FuzzParse: nothing panics, and what parses is written as it was read, but for the checksum.
// exam: M14
func FuzzParse(f *testing.F) {
	f.Add(append([]byte{0x45, 19: 1}, appendHeader(nil, echoRequest, echo{identifier: 1, number: 1 << 20, data: []byte("x")})...))
	f.Add(append([]byte{0x46, 23: 1}, appendHeader(nil, echoReply, echo{identifier: 1, number: 1 << 20, held: time.Second})...))
	f.Add([]byte{0x45})
	f.Add([]byte{0x4f, 19: 1}) // a header of 60 bytes in 20
	f.Add([]byte{0x41, 19: 1})
	f.Fuzz(func(t *testing.T, ip []byte) {
		b := payloadOf(ip)
		for _, kind := range []byte{echoRequest, echoReply} {
			e, ok := parse(b, kind)
			if !ok {
				continue
			}
			again := append(appendHeader(nil, kind, e), e.data...)
			if !bytes.Equal(again[:2], b[:2]) || !bytes.Equal(again[4:], b[4:]) {
				t.Errorf("%x is written as %x", b, again)
			}
		}
	})
}

// rawPing is a raw socket of the test.
func rawPing(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	tv := unix.NsecToTimeval(int64(300 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return fd
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// A socket gets what is for it, and nothing else.
func TestFilter(t *testing.T) {
	for _, gateway := range []bool{true, false} {
		fd, err := netsock.Ping()
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSocket(fd, isRaw(fd))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		kind := byte(echoRequest)
		if !s.raw {
			t.Fatal("this test wants a raw socket")
		}
		if !gateway {
			kind, s.identifier = echoReply, 77
		}
		if err := s.filter(kind); err != nil {
			t.Fatal(err)
		}
		out := rawPing(t)
		send := func(kind byte, e echo, marker string) {
			b := append(appendHeader(nil, kind, e), e.data...)
			if marker != "" {
				copy(b[echoLen:], marker)
			}
			if err := unix.Sendto(out, b, 0, netsock.Sockaddr(loopback)); err != nil {
				t.Fatal(err)
			}
		}
		send(kind, echo{identifier: 77, number: 1}, "ping") // an ordinary one
		send(echoRequest+echoReply-kind, echo{identifier: 77, number: 2}, "")
		if !gateway {
			send(kind, echo{identifier: 78, number: 3}, "") // of another process
		}
		send(kind, echo{identifier: 77, number: 4}, "")
		n, _, err := s.read(batch)
		if err != nil || n != 1 {
			t.Fatalf("got %d packets, %v", n, err)
		}
		if e, ok := s.echo(0, kind); !ok || e.number != 4 {
			t.Errorf("got %+v, %v", e, ok)
		}
	}
}

// A client takes answers of its gateway only.
func TestAnotherHost(t *testing.T) {
	fd, err := netsock.Ping()
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAsker(fd, loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for i, from := range []string{"127.0.0.2", "127.0.0.1"} {
		out := rawPing(t)
		if err := unix.Bind(out, netsock.Sockaddr(netip.AddrPortFrom(netip.MustParseAddr(from), 0))); err != nil {
			t.Fatal(err)
		}
		b := appendHeader(nil, echoReply, echo{identifier: a.identifier, number: uint32(i)})
		if err := unix.Sendto(out, b, 0, netsock.Sockaddr(loopback)); err != nil {
			t.Fatal(err)
		}
	}
	answers := make([]polling.Answer, batch)
	if n, err := a.Receive(answers); n != 1 || answers[0].Number != 1 || err != nil {
		t.Errorf("got %d answers, the first to %d, %v", n, answers[0].Number, err)
	}
}

// Empty answers are not sent, wherever they stand among others.
func TestEmptyAnswers(t *testing.T) {
	a, err := bind(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	in := rawPing(t)
	for _, lens := range [][]int{{0, 5, 0, 0, 7, 0}, {0, 0}, {3}, {0, 4, 0, 0, 65530, 6, 0}} { // one is too long, and lost
		var to []polling.Reply[back]
		for i := range lens {
			to = append(to, polling.Reply[back]{Number: uint32(i), Back: back{to: [4]byte{127, 0, 0, 1}, identifier: 55}})
		}
		if n, err := a.Answer(to, make([]byte, sum(lens)), lens, true); n != len(lens) || err != nil {
			t.Errorf("%v: %d are taken, %v", lens, n, err)
		}
		var got, want []int
		for buf := make([]byte, 2000); ; {
			n, _, err := unix.Recvfrom(in, buf, 0)
			if err != nil {
				break
			}
			if e, ok := parse(payloadOf(buf[:n]), echoReply); ok && e.identifier == 55 {
				got = append(got, int(e.number)*100+len(e.data))
			}
		}
		for i, l := range lens {
			if l > 0 && l < 65530 {
				want = append(want, i*100+l)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: got %v, want %v", lens, got, want)
		}
	}
}

// A message that is too long for the way is lost, and nothing else.
func TestTooLong(t *testing.T) {
	fd, err := netsock.Ping()
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAsker(fd, loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	gateway, err := bind(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	lens := []int{100, 65530, 200, 0}
	if n, err := a.Ask(1<<32-2, make([]byte, sum(lens)), lens, false); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	var got []int
	for questions := make([]polling.Question[back], batch); len(got) < 6; {
		n, err := gateway.Receive(questions)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range questions[:n] {
			got = append(got, int(int32(q.Number)), len(q.Data))
		}
	}
	if want := []int{-2, 100, 0, 200, 1, 0}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func sum(lens []int) (n int) {
	for _, l := range lens {
		n += l
	}
	return n
}

// A gateway sends a stranger no more than it got, and nothing to what is no question.
// exam: R15
func TestAmplification(t *testing.T) {
	client, _ := pair(t) // there is a gateway, and it has a client
	_ = client
	fd := rawPing(t)
	sent, received := 0, 0
	ask := func(e echo) {
		b := append(appendHeader(nil, echoRequest, e), e.data...)
		if err := unix.Sendto(fd, b, 0, netsock.Sockaddr(loopback)); err != nil {
			t.Fatal(err)
		}
		sent += len(b)
	}
	data := make([]byte, 1300)
	data[0], data[1] = 0x80, 1 // an initial packet of a version that there is, and garbage
	for i := range 20 {
		ask(echo{identifier: 99, number: uint32(i)})
		ask(echo{identifier: 99, number: uint32(1000 + i), data: data})
		ask(echo{identifier: 99, number: uint32(2000 + i), data: make([]byte, 60)}) // of a connection that is none
	}
	answers := 0
	for buf := make([]byte, 2000); ; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			break
		}
		if e, ok := parse(payloadOf(buf[:n]), echoReply); ok && e.identifier == 99 {
			received += len(payloadOf(buf[:n]))
			answers++
		}
	}
	t.Logf("%d bytes sent, %d received in %d answers", sent, received, answers)
	if received > sent || answers > 60 || answers == 0 {
		t.Errorf("%d bytes in %d answers to %d bytes in 60 questions", received, answers, sent)
	}
}
