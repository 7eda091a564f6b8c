package ssh

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// A conn is the channel as a net.Conn. It has no deadlines: Close ends what waits.
type conn struct {
	channel ssh.Channel // nil: not open yet
	wire    *wire

	serving sync.WaitGroup // what refuses requests and channels; it ends with the wire
	closed  atomic.Bool
}

var _ net.Conn = (*conn)(nil)

func newConn(w *wire) *conn { return &conn{wire: w} }

// serve calls a function that ends with the connection. Close waits for it.
func (c *conn) serve(f func()) { c.serving.Go(f) }

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, c.opError("read", net.ErrClosed)
	}
	n, err := c.channel.Read(b)
	if n > 0 || err == nil {
		return n, nil // an error that came with bytes will come again
	}
	if err = c.end(); err == io.EOF {
		return 0, err
	}
	return 0, c.opError("read", err)
}

// Write implements net.Conn. It waits for the other end to read what is 2 MiB back.
func (c *conn) Write(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, c.opError("write", net.ErrClosed)
	}
	n, err := c.channel.Write(b)
	if err == nil {
		return n, nil
	}
	if err = c.end(); err == io.EOF {
		err = syscall.EPIPE
	}
	return n, c.opError("write", err)
}

// end returns why a channel has ended, of which itself tells but that: the error of the connection below, or
// io.EOF for all that is SSH's: the other end has closed the channel or the connection, or has not kept to the
// protocol. Nothing can follow, so the connection is closed; what came before the end can be read.
func (c *conn) end() error {
	_ = c.wire.Close()
	c.serving.Wait()
	fault := c.wire.fault()
	switch {
	case c.closed.Load():
		return net.ErrClosed
	case fault == nil, errors.Is(fault, net.ErrClosed): // by the line above
		return io.EOF
	}
	return fault
}

// Close implements net.Conn. What was written is sent; what was not read is lost. It does not wait for the other
// end. Our goroutines have ended when it returns, those of the library do so at once.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		c.serving.Wait()
		return c.opError("close", net.ErrClosed)
	}
	_ = c.wire.Close() // the other end may have closed it before
	c.serving.Wait()
	return nil
}

func (c *conn) opError(op string, err error) error {
	if inner := new(net.OpError); errors.As(err, &inner) {
		err = inner.Err // of the connection below
	}
	return &net.OpError{Op: op, Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

const network = "ssh"

// An Addr is the address of one end: that of the connection below.
type Addr struct{ net.Addr }

// Network implements net.Addr.
func (Addr) Network() string { return network }

// AddrPort returns the address in the form of net.TCPAddr; the zero value where there is none.
func (a Addr) AddrPort() netip.AddrPort {
	if tcp, ok := a.Addr.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return Addr{c.wire.LocalAddr()} }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return Addr{c.wire.RemoteAddr()} }

// SetDeadline implements net.Conn: channels have none.
func (c *conn) SetDeadline(time.Time) error { return c.opError("set", os.ErrNoDeadline) }

// SetReadDeadline implements net.Conn: channels have none.
func (c *conn) SetReadDeadline(time.Time) error { return c.opError("set", os.ErrNoDeadline) }

// SetWriteDeadline implements net.Conn: channels have none.
func (c *conn) SetWriteDeadline(time.Time) error { return c.opError("set", os.ErrNoDeadline) }
