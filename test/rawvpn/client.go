package rawvpn

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// DefaultTimeout is Client.Timeout of a new client.
const DefaultTimeout = 5 * time.Second

// A Client is one connection to a gateway. One goroutine may read and another one write.
type Client struct {
	Timeout time.Duration // of each read and each write
	Lease   Lease         // what Join got

	conn     net.Conn
	r        *bufio.Reader
	received atomic.Int64
	seq      uint16 // of the last echo request or fence
}

// Dial connects to a gateway. It opens its socket on the caller's thread, so it can be called in
// another network namespace when the host of addr is a number.
func Dial(ctx context.Context, addr string) (*Client, error) {
	d := net.Dialer{Timeout: DefaultTimeout, KeepAlive: -1}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return New(conn), nil
}

// New returns a client on a connection.
func New(conn net.Conn) *Client {
	c := &Client{Timeout: DefaultTimeout, conn: conn}
	c.r = bufio.NewReader(countReader{conn, &c.received})
	return c
}

type countReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// Received returns how many bytes have come so far.
func (c *Client) Received() int64 { return c.received.Load() }

// SendRaw writes b as it is, with one call.
func (c *Client) SendRaw(b []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.Timeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// Request sends the request of a 2013 client, for any address if static is invalid.
func (c *Client) Request(static netip.Addr) error { return c.SendRaw(Ask{Static: static}.Bytes()) }

// SendPacket sends an IPv4 packet: bare, or in a data frame if that was agreed upon.
func (c *Client) SendPacket(src, dst netip.Addr, protocol byte, payload []byte) error {
	return c.SendIP(IPv4(src, dst, protocol, payload))
}

// SendIP is SendPacket for a packet that is there already.
func (c *Client) SendIP(ip []byte) error { return c.SendRaw(c.Wrap(ip)) }

// Wrap returns what SendIP sends.
func (c *Client) Wrap(ip []byte) []byte {
	if c.Lease.Features&Super != 0 {
		return DataFrame(ip)
	}
	return ip
}

// Keepalive sends a keepalive.
func (c *Client) Keepalive() error { return c.SendRaw(Keepalive(0)) }

// ReadItem reads the next item. After os.ErrDeadlineExceeded it may be called again when nothing at
// all had come.
func (c *Client) ReadItem() (Item, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.Timeout)); err != nil {
		return Item{}, err
	}
	return readItem(c.r)
}

// ReadReply reads the next item, which has to be a reply, and returns the address in it.
func (c *Client) ReadReply() (netip.Addr, error) {
	item, err := c.ReadItem()
	if err != nil {
		return netip.Addr{}, err
	}
	if item.Kind != KindReply {
		return netip.Addr{}, fmt.Errorf("got %s % x, want a reply", item.Kind, item.Raw)
	}
	return Dst(item.Raw), nil
}

// Join asks for an address and waits for all that belongs to the answer; c.Lease has it then. The
// error is a *RefusedError when the gateway gave a reason.
func (c *Client) Join(a Ask) error {
	if err := c.SendRaw(a.Bytes()); err != nil {
		return err
	}
	item, err := c.ReadItem()
	if err != nil {
		return err
	}
	switch item.Kind {
	case KindGoodbye:
		return parseGoodbye(item.Raw)
	case KindReply:
		c.Lease = parseReply(item.Raw)
	default:
		return fmt.Errorf("got %s % x, want a reply", item.Kind, item.Raw)
	}
	if c.Lease.Features&Config == 0 {
		return nil
	}
	if item, err = c.ReadItem(); err != nil {
		return err
	}
	if item.Kind != KindConfig {
		return fmt.Errorf("got %s behind a reply, want a config frame", item.Kind)
	}
	return c.Lease.config(item.Raw)
}

// Fence sends a keepalive and returns all that comes before its echo: what the gateway had to say
// about everything that was sent before, if it has anything to say.
func (c *Client) Fence() (before []Item, err error) {
	c.seq++
	if err := c.SendRaw(Keepalive(c.seq)); err != nil {
		return nil, err
	}
	for {
		item, err := c.ReadItem()
		if err != nil {
			return before, err
		}
		if item.Kind == KindKeepalive && binary.BigEndian.Uint16(item.Raw[4:]) == c.seq {
			return before, nil
		}
		before = append(before, item)
	}
}

// Ping sends an echo request and waits for the answer. Other items are passed over.
func (c *Client) Ping(dst netip.Addr) (time.Duration, error) {
	const id = 0x7a77
	c.seq++
	began := time.Now()
	if err := c.SendIP(Echo(c.Lease.Addr, dst, id, c.seq, nil)); err != nil {
		return 0, err
	}
	for {
		item, err := c.ReadItem()
		if err != nil {
			return 0, fmt.Errorf("ping %s: %w", dst, err)
		}
		if p := item.Packet; len(p) >= 28 && p[9] == ICMP && p[20] == 0 && Src(p) == dst && binary.BigEndian.Uint16(p[26:]) == c.seq {
			return time.Since(began), nil
		}
	}
}

// AwaitClose waits until the other side has closed the connection, and returns how long that took.
func (c *Client) AwaitClose(limit time.Duration) (time.Duration, error) {
	began := time.Now()
	if err := c.conn.SetReadDeadline(began.Add(limit)); err != nil {
		return 0, err
	}
	_, err := io.Copy(io.Discard, c.r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("not closed within %s", limit)
	}
	return time.Since(began), nil // nil is the end of the stream, all others a reset
}

// SetReadBuffer makes the kernel take few bytes for a client that does not read.
func (c *Client) SetReadBuffer(n int) error { return c.conn.(*net.TCPConn).SetReadBuffer(n) }

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Abort ends the connection with a reset, as a device that lost its power and came back would.
func (c *Client) Abort() error {
	if tcp, ok := c.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return c.conn.Close()
}
