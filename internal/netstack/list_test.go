package netstack

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"ferry/internal/flowlist"
)

// What the exit carries is listed while it is carried, of one client or of all; of many only some, and how many there are.
func TestExitFlows(t *testing.T) {
	c := newClient(t, Config{})
	began := time.Now()
	port := listen(t, func(x *net.TCPConn) { _, _ = io.Copy(x, x) })
	x := c.mustDial(port)
	if _, err := x.Write(make([]byte, 300)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(x, make([]byte, 300)); err != nil {
		t.Fatal(err)
	}
	all, total, err := c.exit.Flows([]netip.Addr{here})
	if err != nil || total != 1 || len(all) != 1 {
		t.Fatalf("got %v, %d, %v", all, total, err)
	}
	own, err := netip.ParseAddrPort(x.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	if w := all[0]; w.By != flowlist.ByUser || w.Protocol != "tcp" || w.Client != own || w.Remote != netip.AddrPortFrom(outside, port) || w.State != "established" ||
		!w.Counted || w.Sent < 300 || w.Received < 300 || w.Since.Before(began) || w.Last.Before(w.Since) {
		t.Errorf("got %+v", w)
	}
	if all, total, _ := c.exit.Flows([]netip.Addr{gateway}); len(all) != 0 || total != 0 {
		t.Errorf("of another client: %v", all)
	}

	u, err := gonet.DialUDP(c.stack, nil, new(full(netip.AddrPortFrom(outside, port))), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	_, _ = u.Write([]byte("hello"))
	until := time.Now().Add(patience)
	for {
		all, total, _ = c.exit.Flows(nil)
		if total == 2 || time.Now().After(until) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if w := all[len(all)-1]; total != 2 || w.Protocol != "udp" || w.Sent != 5 || !w.Counted || w.Remote != netip.AddrPortFrom(outside, port) {
		t.Errorf("got %d, %+v", total, w)
	}
}

// Of many only some are listed, and all are counted.
func TestExitFlowsBound(t *testing.T) {
	const n = flowlist.Max + 100
	f, c := newFlows(new(Exit)), &conns{group: new(group), all: newShares[*conn]()}
	for i := range uint16(n) {
		k := flowKey{protoUDP, netip.AddrPortFrom(here, i), netip.AddrPortFrom(outside, 53)}
		f.all[k] = &flow{flowKey: k, owner: here}
		c.all.add(here, &conn{client: here})
	}
	if some, total := f.some(nil); len(some) != flowlist.Max || total != n {
		t.Errorf("flows: %d of %d", len(some), total)
	}
	if some, total := c.some([]netip.Addr{here}); len(some) != flowlist.Max || total != n {
		t.Errorf("connections: %d of %d", len(some), total)
	}
}
