package carrier

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Modes are what may be spoken on a listener.
type Modes uint8

// The modes. The first byte of a connection tells which one it is.
const (
	Plain Modes = 1 << iota // the 2013 protocol and its extensions, as they are
	TLS                     // the same inside of TLS, with keys on both sides
	Web                     // that again inside of a WebSocket, over HTTP or HTTPS
)

// modeNames are the words for modes in a URL; the first ones of them that fit make a text.
var modeNames = []struct {
	name  string
	modes Modes
}{{"both", Plain | TLS}, {"plain", Plain}, {"tls", TLS}, {"web", Web}}

// String returns the words for modes in a URL, with commas between them.
func (m Modes) String() string {
	var words []string
	for _, n := range modeNames {
		if m&n.modes == n.modes {
			words = append(words, n.name)
			m &^= n.modes
		}
	}
	return strings.Join(words, ",")
}

// parseModes reads words for modes. Who comes by a WebSocket speaks TLS in it.
func parseModes(s string) (m Modes, ok bool) {
	for word := range strings.SplitSeq(s, ",") {
		i := slices.IndexFunc(modeNames, func(n struct {
			name  string
			modes Modes
		}) bool {
			return n.name == word
		})
		if i < 0 {
			return 0, false
		}
		m |= modeNames[i].modes
	}
	return m, true
}

// A Listening is an endpoint to listen on, and who may come in there.
type Listening struct {
	Endpoint
	Allow Modes    // 0: as the gateway has a key or not
	From  []uint32 // context IDs (vsock), user IDs (unix); empty: all
}

// ParseListen reads a URL to listen on: tcp://[host]:port, vsock://[cid]:port, unix:///path, each with
// ?allow=plain, tls, both or web, several with commas between; ws://[host]:port/path and wss://... stand for tcp://...?allow=tls,web; vsock with &cid=3,4, the guests that may come; unix with &uid=0,1000.
func ParseListen(s string) (Listening, error) {
	var l Listening
	u, err := url.Parse(s)
	if err != nil {
		return l, fmt.Errorf("%q is not a URL: %w", s, err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return l, fmt.Errorf("%q: %w", s, err)
	}
	for key, values := range q {
		if len(values) > 1 {
			return l, fmt.Errorf("%q: %s is there twice: write cid=3,4 for several", s, key)
		}
	}
	if v := q.Get("allow"); q.Has("allow") {
		var ok bool
		if l.Allow, ok = parseModes(v); !ok {
			return l, fmt.Errorf("%q: allow=%s: write plain, tls, both or web, several with commas between", s, v)
		}
	}
	q.Del("allow")
	if who := map[string]string{"vsock": "cid", "unix": "uid"}[u.Scheme]; q.Has(who) {
		for text := range strings.SplitSeq(q.Get(who), ",") {
			id, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return l, fmt.Errorf("%q: %s=%q: numbers with commas between them are expected", s, who, q.Get(who))
			}
			l.From = append(l.From, uint32(id))
		}
		q.Del(who)
	}
	u.RawQuery = q.Encode()
	l.Endpoint, err = parse(u.String(), DefaultPort)
	switch {
	case err != nil:
	case isWeb(l.Scheme) && l.Allow&Plain != 0:
		err = fmt.Errorf("%q: clients without a key come by tcp, vsock, unix and connect-ip only", s)
	case isWeb(l.Scheme):
		l.Allow = TLS | Web
	case l.Allow&Web != 0 && l.Scheme != "tcp":
		err = fmt.Errorf("%q: a WebSocket comes by tcp only", s)
	case l.HybridPort != 0:
		err = fmt.Errorf("%q: '?vsock=' is for dialling; listen on the path with the port appended, as in unix:///path_%d", s, l.HybridPort)
	}
	return l, err
}

// isWeb tells whether a scheme is one of those that stand for tcp with allow=tls,web.
func isWeb(scheme string) bool { return kinds[scheme].path != "" || scheme == "connect-ip+h1" }

// Admits tells whether l.From lets a context ID or a user ID in.
func (l Listening) Admits(id uint32) bool { return len(l.From) == 0 || slices.Contains(l.From, id) }

// TLSByte is the first byte of a TLS connection: a record of a handshake (RFC 8446, section 5.1).
const TLSByte = 22

// FirstByte waits for the first byte of a connection until ctx is done, and returns it with a connection
// from which it can be read again.
func FirstByte(ctx context.Context, conn net.Conn) (b byte, again net.Conn, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	again = conn
	if raw := rawConn(conn); raw != nil {
		b, err = peek(raw)
	} else {
		first := make([]byte, 1)
		_, err = io.ReadFull(conn, first) // a read may return nothing at all
		b, again = first[0], &unread{Conn: conn, first: first}
		if w, ok := conn.(Waiter); ok {
			again = &unreadWaiter{unread{Conn: conn, first: first}, w}
		}
	}
	if !stop() { // a deadline set a moment too late would end the connection later
		err = ctx.Err()
	}
	return b, again, err
}

func rawConn(conn net.Conn) syscall.RawConn {
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

func peek(raw syscall.RawConn) (byte, error) {
	var first [1]byte
	var n int
	var peekErr error
	err := raw.Read(func(fd uintptr) bool {
		for {
			n, _, peekErr = unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK)
			if peekErr != unix.EINTR {
				return peekErr != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case peekErr != nil:
		return 0, peekErr
	case n == 0:
		return 0, io.EOF
	}
	return first[0], nil
}

// Reset closes a connection without a trace: no state is left here, not even for a minute (TIME_WAIT).
func Reset(conn net.Conn) {
	if raw := rawConn(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	_ = conn.Close()
}

// Drain takes off a connection what has come already: closing it then says so in order (FIN), where bytes
// that nobody has read make the kernel reset it.
func Drain(conn net.Conn) {
	if raw := rawConn(conn); raw != nil {
		var b [4 << 10]byte
		_ = raw.Read(func(fd uintptr) bool { _, _ = unix.Read(int(fd), b[:]); return true })
	}
}

// Unread returns a connection that begins with bytes which were read of conn before: conn itself where there are none.
func Unread(conn net.Conn, first []byte) net.Conn {
	if len(first) == 0 {
		return conn
	}
	return &unread{Conn: conn, first: first}
}

// An unread connection begins with bytes that were read before.
type unread struct {
	net.Conn
	first []byte
}

func (u *unread) Read(b []byte) (int, error) {
	if len(u.first) > 0 {
		n := copy(b, u.first)
		u.first = u.first[n:]
		return n, nil
	}
	return u.Conn.Read(b)
}

// An unreadWaiter is one that can be waited for.
type unreadWaiter struct {
	unread
	waiter Waiter
}

// Wait is that of Waiter.
func (u *unreadWaiter) Wait(idle func()) error {
	if len(u.first) > 0 {
		return nil
	}
	return u.waiter.Wait(idle)
}

// Family returns the network of package net that listens at an address and nowhere else: with "tcp" and "udp" 0.0.0.0 is all of IPv6, too. Who wants both
// leaves the host out.
func Family(network, address string) string {
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Is4() {
		return network + "4"
	}
	return network
}
