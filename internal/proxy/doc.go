// Package proxy lets programs of this device into the tunnel where there is no interface: they are told of a proxy, and connect through it.
//
//	program --SOCKS5 (RFC 1928): CONNECT host:port --+
//	                                                 +--> Connect(host:port) --> what is in the tunnel
//	program --HTTP: CONNECT host:port, GET http://---+
//	program --SOCKS5: UDP ASSOCIATE, datagrams ----------> Dial("udp", host:port) --> what is in the tunnel
//
// The rules are:
//
//   - A destination is dialled before the program is told that it is there, and a refusal is told as one.
//   - Names are looked up on the tunnel's side, by who connects.
//   - Nobody has to prove anything: who reaches the listener is in. It belongs on a loopback address.
//   - There are at most maxConns programs at once; what comes beyond that is closed, and counted.
package proxy

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/carrier"
)

const (
	maxConns = 1024
	// helloTime is how long a program may take to say where it wants to go, and dialTime how long that place may take to answer.
	helloTime = 10 * time.Second
	dialTime  = 30 * time.Second
)

// A Connect dials host:port in the tunnel, by TCP. Its errors are those of package net where they mean the same.
type Connect func(ctx context.Context, address string) (Half, error)

// A Half is a connection in the tunnel.
type Half interface {
	// Join copies first, and then what comes from either side to the other, until both have ended. It closes both.
	Join(program *net.TCPConn, first []byte)
	// Close ends a Half that nobody has joined.
	Close() error
}

// server is what both kinds share: it takes programs in, and waits for them.
type server struct {
	connect Connect
	dial    Dial // nil: no datagrams
	log     *slog.Logger
	counts  *Counts
	all     sync.WaitGroup
	count   atomic.Int32

	associations atomic.Int32
}

// accept hands each connection of l to f, on a goroutine of its own, until ctx is done, and waits for them.
func (s *server) accept(ctx context.Context, l net.Listener, f func(context.Context, *net.TCPConn)) error {
	defer s.all.Wait()
	return carrier.Accept(ctx, l, s.log, func(conn net.Conn) {
		if s.count.Load() >= maxConns {
			s.counts.add(countFull)
			_ = conn.Close()
			return
		}
		s.count.Add(1)
		s.all.Go(func() {
			defer s.count.Add(-1)
			program := conn.(*net.TCPConn) // by net.Listen of tcp
			end := context.AfterFunc(ctx, func() { _ = program.Close() })
			defer end()
			f(ctx, program)
		})
	})
}
