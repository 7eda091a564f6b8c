package hostnet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// A SYN of a client goes through the TUN of a gateway and is caught on the other end of the veth.
func TestMasquerade(t *testing.T) {
	if !inNetns(t) {
		return
	}
	tun := openTUN(t, "vpn0")
	run(t, "ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev veth0")
	wire := capture(t, "veth1")
	l := New("vpn0", nil)
	mustApply(t, l, gateway) // MTU 1400
	defer mustClose(t, l)

	dst := netip.MustParseAddr("203.0.113.9")
	if _, err := tun.Write(syn(netip.MustParseAddr("10.0.5.5"), dst, 1460)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 2000); ; {
		n, _, err := unix.Recvfrom(wire, b, 0)
		if err != nil {
			t.Fatalf("no SYN on the wire: %v", err)
		}
		if n < 44 || [4]byte(b[16:20]) != dst.As4() {
			continue
		}
		if src := netip.AddrFrom4([4]byte(b[12:16])); src.String() != "192.0.2.2" {
			t.Errorf("source: got %s, want 192.0.2.2", src)
		}
		if mss := binary.BigEndian.Uint16(b[42:]); mss != 1360 {
			t.Errorf("MSS: got %d, want 1360", mss)
		}
		return
	}
}

// A local connection to the gateway's own address keeps its source.
func TestMasqueradeSparesLoopback(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	l := New("vpn0", nil)
	mustApply(t, l, gateway)
	defer mustClose(t, l)
	wire := capture(t, "lo")
	src := netip.MustParseAddr("10.0.0.1")
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, []byte("x"), 0, &unix.SockaddrInet4{Addr: src.As4(), Port: 9}); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 2000); ; {
		n, _, err := unix.Recvfrom(wire, b, 0)
		if err != nil {
			t.Fatalf("no datagram on lo: %v", err)
		}
		if n >= 20 && [4]byte(b[16:20]) == src.As4() {
			if got := netip.AddrFrom4([4]byte(b[12:16])); got != src {
				t.Errorf("source: got %s, want %s", got, src)
			}
			return
		}
	}
}

// capture returns a socket that gets the IPv4 packets which pass by an interface. Reading gives up
// after 5 s.
func capture(t *testing.T, name string) int {
	t.Helper()
	dev, err := findDevice(name)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // big endian
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s) })
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	return s
}

// syn returns a TCP SYN in IPv4, from port 4000 to port 80, with an MSS option.
func syn(src, dst netip.Addr, mss uint16) []byte {
	p := make([]byte, 44)
	p[0], p[3], p[8], p[9] = 0x45, 44, 64, unix.IPPROTO_TCP
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20], 0))
	tcp := p[20:]
	binary.BigEndian.PutUint16(tcp, 4000)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	tcp[12], tcp[13], tcp[20], tcp[21] = 6<<4, 0x02, 2, 4
	binary.BigEndian.PutUint16(tcp[22:], mss)
	binary.BigEndian.PutUint16(tcp[16:], checksum(p[12:], unix.IPPROTO_TCP+24))
	return p
}

func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
