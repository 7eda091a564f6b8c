package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	udpPort    = 7001
	udpPayload = 36                     // bytes: 64 with the headers of IPv4 and UDP
	udpWarm    = 500 * time.Millisecond // from the first packet until counting begins
	udpWindow  = 2 * time.Second        // of counting
	udpBuffer  = 1 << 20                // bytes, of the receiving socket
)

// udpRow counts small packets that arrive at the gateway while c1 sends as fast as it can, one packet in
// each system call at both ends. That is more than any tunnel takes: what counts is how much of the
// machine is left for packets that arrive.
func udpRow(ctx context.Context, b *bench) ([]*line, error) {
	p, err := b.openPaths(b.startFerry)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	l := &line{what: "UDP, 64-byte packets delivered, k/s", ratios: true, bars: []bar{timesWireguard(2)}}
	return []*line{l}, b.inTurn(ctx, p.all, b.flood, l)
}

// flood returns thousands of packets that were delivered per second.
func (b *bench) flood(ctx context.Context, p path) ([]float64, error) {
	recv, err := b.net.gw.Start(b.self, "udp-recv")
	if err != nil {
		return nil, err
	}
	defer stop(recv)
	if _, err := recv.Await("ready", 0, patience); err != nil {
		return nil, err
	}
	if _, err := output(ctx, b.net.c1, b.self, "udp-send", p.addr); err != nil {
		return nil, err
	}
	text, err := recv.Await("delivered", 0, patience)
	if err != nil {
		return nil, err
	}
	var rate float64
	if _, err := fmt.Sscanf(text, "delivered %f", &rate); err != nil {
		return nil, fmt.Errorf("parse %q: %w", text, err)
	}
	return []float64{rate / 1000}, nil
}

// udpSend is a traffic generator: ADDR.
func udpSend(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: bench udp-send ADDR")
	}
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: udpPort, Addr: addr.As4()}); err != nil {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	payload := make([]byte, udpPayload)
	var sent, refused int
	began := time.Now()
	for time.Since(began) < udpWarm+udpWindow+200*time.Millisecond {
		for range 64 { // for the clock costs time, too
			switch _, err := unix.Write(fd, payload); err {
			case nil:
				sent++
			case unix.ENOBUFS, unix.EAGAIN, unix.ECONNREFUSED: // the receiver is gone at the end
				refused++
			default:
				return fmt.Errorf("send to %s: %w", addr, err)
			}
		}
	}
	fmt.Println("sent", strconv.Itoa(int(float64(sent)/time.Since(began).Seconds())), "refused", refused)
	return nil
}

// udpReceive is a traffic sink: it prints how many packets per second arrived.
func udpReceive([]string) error {
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer)
	timeout := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("set SO_RCVTIMEO: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: udpPort}); err != nil {
		return fmt.Errorf("bind to port %d: %w", udpPort, err)
	}
	fmt.Println("ready")
	if _, err := receiveFor(fd, 1, patience); err != nil {
		return err
	}
	if _, err := receiveFor(fd, 0, udpWarm); err != nil {
		return err
	}
	began := time.Now()
	n, err := receiveFor(fd, 0, udpWindow)
	if err != nil {
		return err
	}
	fmt.Printf("delivered %.0f\n", float64(n)/time.Since(began).Seconds())
	return nil
}

// receiveFor receives packets of the right size until there are enough (0: no end), or limit is over.
func receiveFor(fd, enough int, limit time.Duration) (n int, err error) {
	buf := make([]byte, 2048)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		for range 32 {
			size, err := unix.Read(fd, buf)
			if err == unix.EAGAIN || err == unix.EINTR {
				break
			}
			if err != nil {
				return n, fmt.Errorf("receive: %w", err)
			}
			if size != udpPayload {
				continue
			}
			if n++; n == enough {
				return n, nil
			}
		}
	}
	return n, nil
}
