package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"ferry/test/lab"
)

const (
	starts   = 10
	startBar = 100.0 // ms, and three round trips
)

// startRow measures the time from the start of vpncli until a ping through the tunnel is answered. The
// ping is sent anew each millisecond, and before there is a route it can not go anywhere.
func startRow(ctx context.Context, b *bench) ([]*line, error) {
	f, err := b.startFerry()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rtt, err := b.ping(ctx, path{bare, bareGateway})
	if err != nil {
		return nil, err
	}
	limit := startBar + 3*rtt[0]
	l := &line{
		what: fmt.Sprintf("vpncli start to first answered ping, ms (%d starts; RTT %.3f ms)", starts, rtt[0]),
		bars: []bar{atMost(limit, fmt.Sprintf("<= 100 ms + 3 RTT = %.1f ms", limit))},
	}
	for i := range starts {
		took, err := b.startOnce(ctx)
		if err != nil {
			return nil, err
		}
		ms := float64(took.Microseconds()) / 1000
		l.got[ours] = append(l.got[ours], ms)
		progress("  start %d/%d: %s ms", i+1, starts, figure(ms))
	}
	return []*line{l}, nil
}

// startOnce starts and stops one client.
func (b *bench) startOnce(ctx context.Context) (time.Duration, error) {
	var conn net.PacketConn
	err := b.net.c1.Do(func() (err error) {
		conn, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("open socket for pings: %w", err)
	}
	defer conn.Close()
	began := time.Now()
	p, err := b.net.c1.Start(b.program("vpncli"), "-s", bareGateway, "--json")
	if err != nil {
		return 0, err
	}
	defer stop(p)
	if err := firstPing(ctx, conn, p, ferryAddr); err != nil {
		return 0, fmt.Errorf("%w:\n%s", err, p.Output())
	}
	return time.Since(began), nil
}

// firstPing pings an address until an answer has come, or p has ended.
func firstPing(ctx context.Context, conn net.PacketConn, p *lab.Proc, addr string) error {
	to := &net.IPAddr{IP: net.ParseIP(addr)}
	id := os.Getpid() & 0xffff
	buf := make([]byte, 1500)
	began := time.Now()
	for seq := 0; ctx.Err() == nil; seq++ {
		request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: seq & 0xffff}}).Marshal(nil)
		if err != nil {
			return err
		}
		_, _ = conn.WriteTo(request, to) // fails until there is a route
		for end := time.Now().Add(time.Millisecond); ; {
			_ = conn.SetReadDeadline(end)
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if isAnswer(buf[:n], id) {
				return nil
			}
		}
		select {
		case <-p.Done():
			return fmt.Errorf("vpncli ended")
		default:
		}
		if time.Since(began) > patience {
			return fmt.Errorf("no ping was answered within %s", patience)
		}
	}
	return ctx.Err()
}

func isAnswer(b []byte, id int) bool {
	m, err := icmp.ParseMessage(ipv4.ICMPTypeEcho.Protocol(), b)
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
		return false
	}
	echo, ok := m.Body.(*icmp.Echo)
	return ok && echo.ID == id
}
