package l2port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	carrierunix "ferry/internal/carrier/unix"
	"ferry/internal/l2port/ether"
)

// A Listener is a place where machines are plugged in, many at once.
type Listener struct {
	e Endpoint
	l source
}

// A source hands out connections.
type source interface {
	Accept() (net.Conn, error)
	Close() error
}

// An Arrival is a machine of which nothing was read yet.
type Arrival struct {
	conn    net.Conn
	framing Framing
	remote  net.Addr
}

// Plugged returns the arrival of a machine on a connection that somebody else has accepted, where scheme and at tell of.
func Plugged(conn net.Conn, f Framing, scheme, at string) *Arrival {
	return &Arrival{conn: conn, framing: f, remote: Addr{scheme, at}}
}

// Listen opens an endpoint. Sockets are for the user of this process only. One that a dead process left there is replaced; anything
// else that exists is left alone and is an error.
func Listen(ctx context.Context, e Endpoint) (*Listener, error) {
	l, err := listen(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return &Listener{e, l}, nil
}

func listen(ctx context.Context, e Endpoint) (source, error) {
	if e.network == "" {
		return openStdio()
	}
	lc := net.ListenConfig{}
	if e.Path() != "" {
		if err := carrierunix.RemoveDead(ctx, e.network, e.address); err != nil {
			return nil, err
		}
		lc.Control = private
	}
	if e.network != "unixgram" {
		return lc.Listen(ctx, e.network, e.address)
	}
	conn, err := lc.ListenPacket(ctx, e.network, e.address)
	if err != nil {
		return nil, err
	}
	return newSwitchboard(conn.(*net.UnixConn))
}

// private gives the file that a socket will have its mode, before it is there.
func private(_, _ string, raw syscall.RawConn) (err error) {
	return errors.Join(raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
}

// Accept waits for the next machine.
func (l *Listener) Accept() (*Arrival, error) {
	conn, err := l.l.Accept()
	if err != nil {
		return nil, err
	}
	a := &Arrival{conn: conn, framing: l.e.Framing, remote: conn.RemoteAddr()}
	if _, ok := a.remote.(*net.TCPAddr); !ok {
		a.remote = Addr{l.e.Scheme, l.e.address}
		if far := conn.RemoteAddr(); far != nil && l.e.network == "unixgram" {
			a.remote = Addr{l.e.Scheme, far.String()}
		}
	}
	return a, nil
}

// Addr returns where l listens.
func (l *Listener) Addr() net.Addr { return Addr{l.e.Scheme, l.address()} }

// address is that of the socket, where the system has chosen the port.
func (l *Listener) address() string {
	if t, ok := l.l.(*net.TCPListener); ok {
		return t.Addr().String()
	}
	return l.e.address
}

// Close ends Accept, and removes the socket. It is idempotent, as far as nobody asks for the error.
func (l *Listener) Close() error { return l.l.Close() }

// Link makes a link of the arrival.
func (a *Arrival) Link(c ether.Config) *Link { return NewLink(a.conn, a.framing, a.remote, c) }

// RemoteAddr returns where the machine is plugged in.
func (a *Arrival) RemoteAddr() net.Addr { return a.remote }

// Close ends the connection of a machine that no Link was made of.
func (a *Arrival) Close() error { return a.conn.Close() }

// stdio is the one machine at stdin and stdout.
type stdio struct {
	once chan net.Conn // has the connection until it was accepted
	done chan struct{} // closed by Close
	end  sync.Once
}

func openStdio() (source, error) {
	in, out := os.Stdin, os.Stdout
	for _, f := range []*os.File{in, out} {
		if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
			return nil, err
		}
	}
	s := &stdio{once: make(chan net.Conn, 1), done: make(chan struct{})}
	s.once <- &pipes{in: os.NewFile(in.Fd(), "stdin"), out: os.NewFile(out.Fd(), "stdout")}
	return s, nil
}

// Accept implements source.
func (s *stdio) Accept() (net.Conn, error) {
	select {
	case c := <-s.once:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements source.
func (s *stdio) Close() error {
	s.end.Do(func() { close(s.done) })
	return nil
}
