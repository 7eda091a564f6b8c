package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A flow is a TCP connection inside of a tunnel that sends as much as it can. It knows when what arrived:
// iperf3 tells that in tenths of a second only.
type flow struct {
	listener       net.Listener
	sender, sink   *net.TCPConn
	work           sync.WaitGroup
	mu             sync.Mutex
	arrivals       []arrival
	ended, closing bool // by somebody else than Close
}

// An arrival is some of what was sent.
type arrival struct {
	at time.Time
	n  int
}

// window is what a flow may have under way: it fills the line of 50 Mbit/s and 20 ms, and never overflows the queue before it,
// so that a ping that is lost was not lost by the flow.
const window = 192 << 10

// startFlow begins to send from c1 to an address of the gateway, or down from there. limit is how much may be under way; 0: no limit.
func startFlow(n *network, addr string, down bool, limit int) (*flow, error) {
	f := &flow{}
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return bounded(raw, limit) }}
	err := n.gw.Do(func() (err error) {
		f.listener, err = c.Listen(context.Background(), "tcp4", addr+":0")
		return err
	})
	if err != nil {
		return nil, err
	}
	var client net.Conn
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error { return bounded(raw, limit) }}
	err = n.c1.Do(func() (err error) {
		client, err = d.Dial("tcp4", f.listener.Addr().String())
		return err
	})
	if err != nil {
		_ = f.listener.Close()
		return nil, fmt.Errorf("a TCP connection inside: %w", err)
	}
	_ = f.listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	server, err := f.listener.Accept()
	if err != nil {
		_ = f.listener.Close()
		_ = client.Close()
		return nil, fmt.Errorf("a TCP connection inside: %w", err)
	}
	f.sender, f.sink = client.(*net.TCPConn), server.(*net.TCPConn)
	if down {
		f.sender, f.sink = f.sink, f.sender
	}
	f.work.Go(f.send)    // ends with Close, or with the connection
	f.work.Go(f.receive) // so does this
	return f, nil
}

// bounded sets how much a socket receives before it was read: of twice as much, about half is taken for the window.
func bounded(raw syscall.RawConn, limit int) (err error) {
	if limit == 0 {
		return nil
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, limit) }); e != nil {
		return e
	}
	return err
}

func (f *flow) send() {
	for b := make([]byte, 64<<10); ; {
		if _, err := f.sender.Write(b); err != nil {
			f.end()
			return
		}
	}
}

func (f *flow) receive() {
	for b := make([]byte, 256<<10); ; {
		n, err := f.sink.Read(b)
		if err != nil {
			f.end()
			return
		}
		f.mu.Lock()
		f.arrivals = append(f.arrivals, arrival{time.Now(), n})
		f.mu.Unlock()
	}
}

func (f *flow) end() {
	f.mu.Lock()
	f.ended = f.ended || !f.closing
	f.mu.Unlock()
}

// Close ends it without a word to the other end, which may be out of reach.
func (f *flow) Close() {
	f.mu.Lock()
	f.closing = true
	f.mu.Unlock()
	for _, c := range []*net.TCPConn{f.sender, f.sink} {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	_ = f.listener.Close()
	f.work.Wait()
}

// hasEnded tells whether the connection did not live until now.
func (f *flow) hasEnded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// since returns what has arrived since a moment.
func (f *flow) since(t time.Time) []arrival {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, _ := slices.BinarySearchFunc(f.arrivals, t, func(a arrival, t time.Time) int { return a.at.Compare(t) })
	return slices.Clone(f.arrivals[i:])
}

// flows tells whether something has arrived in each tenth of the last second: it goes on.
func (f *flow) flows() bool { return f.flowed(time.Now()) }

func (f *flow) flowed(now time.Time) bool {
	var tenths [10]bool
	for _, a := range f.since(now.Add(-time.Second)) {
		tenths[min(9, now.Sub(a.at)*10/time.Second)] = true
	}
	return !slices.Contains(tenths[:], false)
}

// stall returns the longest time without an arrival that ended between two moments, or had not ended by then.
func stall(all []arrival, from, to time.Time) (longest time.Duration) {
	last := from
	for _, a := range all {
		if a.at.After(to) {
			break
		}
		if a.at.After(from) {
			longest = max(longest, a.at.Sub(last))
		}
		last = a.at
	}
	return max(longest, to.Sub(last))
}

// resent returns how many segments were sent again so far, and how many came out of order.
func (f *flow) resent() (again, disorder int) {
	if i, err := tcpInfo(f.sender); err == nil {
		again = int(i.Total_retrans)
	}
	if i, err := tcpInfo(f.sink); err == nil {
		disorder = int(i.Rcv_ooopack)
	}
	return again, disorder
}

func tcpInfo(c *net.TCPConn) (i *unix.TCPInfo, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) { i, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil {
		return nil, e
	}
	return i, err
}
