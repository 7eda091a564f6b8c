package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openTestSockets opens one socket of each kind that may be found, and of those that may not.
func openTestSockets(t *testing.T) {
	t.Helper()
	keep := func(c interface{ Close() error }, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	only6 := func(value int) net.ListenConfig { // which package net sets by itself otherwise
		return net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, value) })
			return errors.Join(controlErr, err)
		}}
	}
	one, both := only6(1), only6(0)
	keep(net.Listen("tcp4", "0.0.0.0:80"))
	keep(net.Listen("tcp4", "127.0.0.1:81"))
	keep(one.Listen(t.Context(), "tcp6", "[::]:82"))
	keep(both.Listen(t.Context(), "tcp6", "[::]:83"))
	keep(net.ListenPacket("udp4", "192.0.2.2:53"))
	keep(net.ListenPacket("udp6", "[::1]:54"))
	keep(net.Dial("tcp4", "127.0.0.1:81")) // has a peer, and so has what listens for it
	keep(net.Dial("udp4", "127.0.0.1:9"))
}

func TestSockets(t *testing.T) {
	if !inNetns(t) {
		return
	}
	run(t, "ip link set lo up")
	openTestSockets(t)
	s, err := OpenSockets()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if own, err := s.List(); err != nil || len(own) > 0 {
		t.Errorf("sockets of this process: got %v, %v, want none", own, err)
	}
	if s.own, err = os.Open(t.TempDir()); err != nil { // nothing is this process's
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var inodes []uint32
	for _, f := range all {
		got = append(got, fmt.Sprintf("udp %t %s only6 %t", f.UDP, netip.AddrPortFrom(f.Addr, f.Port), f.Only6))
		inodes = append(inodes, f.Inode)
	}
	slices.Sort(got)
	want := []string{
		"udp false 0.0.0.0:80 only6 false", "udp false 127.0.0.1:81 only6 false", "udp false [::]:82 only6 true", "udp false [::]:83 only6 false",
		"udp true 192.0.2.2:53 only6 false", "udp true [::1]:54 only6 false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	const nobodys = 250 // no protocol has this number (IANA)
	if some, err := s.list(unix.IPPROTO_TCP, nobodys); !errors.Is(err, ErrNoDiag) || len(some) != 4 {
		t.Errorf("of a protocol that is not there: got %v, %v, want those of TCP and an error", some, err)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	names := ProgramNames(append(inodes, 1))
	for _, i := range inodes {
		if want := strings.TrimSpace(string(comm)); names[i] != want {
			t.Errorf("socket %d is of %q, want %q", i, names[i], want)
		}
	}
	if len(names) != len(inodes) {
		t.Errorf("got %v: nobody has socket 1", names)
	}
	if s.FirstEphemeral < 1024 || s.LastEphemeral <= s.FirstEphemeral {
		t.Errorf("ephemeral ports %d to %d", s.FirstEphemeral, s.LastEphemeral)
	}
}
