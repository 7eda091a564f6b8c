package forward

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/flowlist"
)

// What a table carries is listed while it is carried, of one client or of all.
func TestFlows(t *testing.T) {
	client := netip.MustParseAddr("127.0.0.1")
	tcp := serve(t, func(c *net.TCPConn) {
		_, _ = io.CopyN(io.Discard, c, 300)
		_, _ = c.Write(make([]byte, 100))
		_, _ = io.Copy(io.Discard, c)
	})
	udp := answer(t, func(b []byte) [][]byte { return [][]byte{b, b} })
	table := NewTable(context.Background(), Config{Resolve: func(string) (netip.Addr, error) { return client, nil }})
	defer table.Close()
	add := func(from, to string) *Forward {
		spec, err := Parse(from, to)
		if err == nil {
			_, err = table.Add(spec, 0, false, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		return table.all[len(table.all)-1].f
	}
	began := time.Now()
	conn, datagrams := dial(t, add("tcp://127.0.0.1:0", fmt.Sprintf("cam1:%d", tcp.Port()))), dialUDP(t, add("udp://127.0.0.1:0", udp))
	add("tcp://127.0.0.1:0", "127.0.0.2:9")
	if _, err := conn.Write(make([]byte, 300)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	exchange(t, datagrams, []byte("hello"))
	const sockets = 2 // SYN and FIN count as a byte
	eventually(t, "both", func() bool {
		all, total := table.Flows([]netip.Addr{client})
		seen := map[string]bool{}
		for _, w := range all {
			sent, received := uint64(100), uint64(300)
			if w.Protocol == "udp" {
				sent, received = 2*w.Received, w.Received
			}
			to := map[string]string{"tcp": tcp.String(), "udp": udp}[w.Protocol]
			from := map[string]string{"tcp": conn.LocalAddr().String(), "udp": datagrams.LocalAddr().String()}[w.Protocol]
			seen[w.Protocol] = w.By == flowlist.ByForward && w.Client.String() == to && w.Remote.String() == from && w.Counted && received > 0 && w.Sent-sent <= sockets && w.Received-received <= sockets &&
				!w.Since.Before(began) && !w.Last.Before(began.Add(-time.Second))
		}
		return total == 2 && seen["tcp"] && seen["udp"]
	})
	if all, total := table.Flows([]netip.Addr{netip.MustParseAddr("127.0.0.2")}); len(all) != 0 || total != 0 {
		t.Errorf("of another client: %v", all)
	}
	conn.Close()
	eventually(t, "the end of one", func() bool { _, total := table.Flows(nil); return total == 1 })
}
