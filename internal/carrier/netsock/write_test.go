package netsock

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Writer of a connection sends where that is connected to, or elsewhere.
func TestWriterOf(t *testing.T) {
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		return c
	}
	peer, other := listen(), listen()
	conn, err := net.DialUDP("udp4", nil, peer.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Of(conn, false)
	if err != nil {
		t.Fatal(err)
	}
	w := NewWriter(s, 1)
	send := func(to netip.AddrPort, text string) (err error) {
		w.Message(0, to, netip.Addr{}, 0, []byte(text), nil)
		return w.Write(1, true, func(errno unix.Errno, sent int) int {
			if errno != 0 || sent != 1 {
				t.Errorf("%q: %v, %d sent", text, errno, sent)
			}
			return 0
		})
	}
	for _, tt := range []struct {
		to   netip.AddrPort
		at   *net.UDPConn
		text string
	}{
		{netip.AddrPort{}, peer, "to the peer"},
		{other.LocalAddr().(*net.UDPAddr).AddrPort(), other, "elsewhere"},
		{netip.AddrPort{}, peer, "to the peer again"},
	} {
		if err := send(tt.to, tt.text); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		if n, _, err := tt.at.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != tt.text {
			t.Errorf("got %q, %v, want %q", b[:n], err, tt.text)
		}
	}
	_ = conn.Close()
	if err := send(netip.AddrPort{}, "too late"); err != net.ErrClosed {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
}

// Zones are names of links, or their numbers.
func TestScope(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for zone, want := range map[string]uint32{"": 0, "7": 7, "lo": uint32(lo.Index), "none such": 0} {
		if got := scope(zone); got != want {
			t.Errorf("%q: got %d, want %d", zone, got, want)
		}
	}
}
