package proxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"ferry/test/service"
)

// udpEcho returns where a server of UDP is that sends back what it reads, until the test ends.
func udpEcho(t *testing.T) netip.AddrPort {
	t.Helper()
	return service.UDP(t, service.Same)
}

// A talker is a program with an association.
type talker struct {
	*net.UDPConn
	t       *testing.T
	control net.Conn
	counts  *Counts
}

// associate makes one. announce: it says from which port it sends.
func associate(t *testing.T, announce bool) *talker {
	t.Helper()
	x := &talker{t: t, counts: new(Counts)}
	at := serve(t, func(ctx context.Context, l net.Listener) error {
		return ServeSOCKS(ctx, l, direct, new(net.Dialer).DialContext, x.counts, slog.New(slog.DiscardHandler))
	})
	own, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var announced netip.AddrPort
	if announce {
		announced = own.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	_ = own.Close()
	if x.control, err = net.Dial("tcp", at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.control.Close() })
	_ = x.control.SetDeadline(time.Now().Add(patience))
	_, _ = x.control.Write(appendAddress([]byte("\x05\x01\x00\x05\x03\x00"), announced))
	b := make([]byte, 100)
	n := 0
	for n < 12 {
		m, err := x.control.Read(b[n:])
		if err != nil {
			t.Fatalf("%x, %v", b[:n], err)
		}
		n += m
	}
	if !bytes.HasPrefix(b, []byte("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01")) {
		t.Fatalf("got %x", b[:n])
	}
	x.UDPConn, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(announced), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(b[10])<<8 | int(b[11])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.UDPConn.Close() })
	_ = x.UDPConn.SetDeadline(time.Now().Add(patience))
	return x
}

// exchange sends data to an address, and wants it back, from that address, with nothing in between.
func (x *talker) exchange(header []byte, from netip.AddrPort, data string) {
	x.t.Helper()
	_, _ = x.Write(append(header, data...))
	b := make([]byte, 1<<16)
	n, err := x.Read(b)
	if want := append(appendHeader(nil, from), data...); err != nil || !bytes.Equal(b[:n], want) {
		x.t.Errorf("got %.20x (%d bytes), %v, want %.20x (%d)", b[:n], n, err, want, len(want))
	}
}

// wait waits until something was counted so often.
func (x *talker) wait(reason string, want uint64) {
	x.t.Helper()
	for end := time.Now().Add(patience); x.counts.All()[reason] != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatalf("counted %v, want %s %d", x.counts.All(), reason, want)
		}
	}
}

// Datagrams pass to addresses and to names and come back with where they are from, in their length; what is wrong is dropped, counted, and ends nothing.
func TestAssociate(t *testing.T) {
	for _, announce := range []bool{true, false} {
		x := associate(t, announce)
		echo := udpEcho(t)
		byAddr := appendHeader(nil, echo)
		byName := append([]byte("\x00\x00\x00\x03\x09localhost"), byAddr[8:]...)
		x.exchange(byAddr, echo, "hello")
		x.exchange(byAddr, echo, "")
		x.exchange(byName, echo, "by a name")
		x.exchange(byAddr, echo, string(make([]byte, 65507-len(byAddr))))

		for want, b := range map[string]string{
			countFragment: "\x00\x00\x01" + string(byAddr[3:]) + "part",
			countHeader:   "\x00\x00\x00\x07" + string(byAddr[4:]),
		} {
			_, _ = x.Write([]byte(b))
			x.wait(want, 1)
		}
		stranger, err := net.Dial("udp4", x.RemoteAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		_, _ = stranger.Write(append(byAddr, "stranger"...))
		x.wait(countStranger, 1)
		_, _ = x.Write(append([]byte("\x00\x00\x00\x03\x04none\x00\x50"), "x"...))
		x.wait(countDial, 1)
		x.exchange(byAddr, echo, "and on")

		_ = x.control.Close()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if _, err := x.Write(byAddr); err != nil { // refused: the socket is gone
				break
			}
			if time.Now().After(end) {
				t.Fatal("the association outlives its connection")
			}
		}
	}
}

// There are so many destinations of a program, and so many programs; those beyond are counted.
func TestAssociateBounds(t *testing.T) {
	x := associate(t, false)
	for i := range maxDestinations + 3 {
		_, _ = x.Write(appendHeader(nil, netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", 1+i))))
	}
	x.wait(countUDPFull, 3)
	echo := udpEcho(t)
	x.exchange(appendHeader(nil, echo), echo, "and on")

	at := x.control.RemoteAddr().String()
	for range maxAssociations {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write(appendAddress([]byte("\x05\x01\x00\x05\x03\x00"), netip.AddrPort{}))
		b := make([]byte, 4)
		for n := 0; n < len(b); {
			m, err := c.Read(b[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if b[3] == repFailure {
			x.wait(countUDPFull, 5) // and of those destinations one for the echo
			return
		}
	}
	t.Errorf("there are more than %d", maxAssociations)
}

func FuzzHeader(f *testing.F) {
	for _, seed := range []string{"\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x35data", "\x00\x00\x00\x03\x04host\x00\x35", "\x00\x00\x00\x03\x04[000\x00\x35", "\x00\x00\x01\x01\x7f\x00\x00\x01\x00\x35", "\x00\x00\x00\x04" + "0123456789abcdef" + "\x00\x35"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		to, data, reason := consumeHeader(b, destination{name: "host"})
		if reason != "" {
			return
		}
		if _, _, err := net.SplitHostPort(to.String()); err != nil || to.addr.Port() == 0 || b[2] != 0 || !bytes.HasSuffix(b, data) {
			t.Errorf("%x: %s, %x, %v", b, to, data, err)
		}
	})
}
