package quic

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// All that concerns the library's interface is in this file.

const (
	// idleTimeout is how long nothing may come.
	idleTimeout = 60 * time.Second
	// handshakeTimeout is how long nothing may come in a handshake.
	handshakeTimeout = 5 * time.Second
	// packetSize is what every path of QUIC carries (RFC 9000, section 14); the library finds out how much more.
	packetSize = 1200
	// tooLong is longer than any datagram that the library sends, bytes.
	tooLong = 16 << 10
	// overhead is what a packet has besides the longest datagram that the library allows, bytes.
	overhead = 37
	// connectionIDLen makes that datagram fill its packet: type (1), ID, packet number (2), type of the frame (1), tag (16). Only
	// full packets leave together, in one system call (UDP_SEGMENT). A longer ID would make the library drop such datagrams.
	connectionIDLen = overhead - 1 - 2 - 1 - 16
)

func config(streams int64) *quic.Config {
	return &quic.Config{
		Versions:              []quic.Version{quic.Version1},
		HandshakeIdleTimeout:  handshakeTimeout,
		MaxIdleTimeout:        idleTimeout,
		InitialPacketSize:     packetSize,
		EnableDatagrams:       true,
		MaxIncomingStreams:    streams,
		MaxIncomingUniStreams: -1,
		// What comes on the stream is small, and read at once.
		InitialStreamReceiveWindow: wordsSize, MaxStreamReceiveWindow: wordsSize,
		InitialConnectionReceiveWindow: wordsSize, MaxConnectionReceiveWindow: wordsSize,
	}
}

// A socket is a UDP socket with the connections on it. It is closed when nobody uses it any more: the listener or a
// connection.
type socket struct {
	udp       *net.UDPConn
	paced     *pacedConn // what the library has of udp
	transport *quic.Transport

	mu    sync.Mutex
	users int
}

func newSocket(udp *net.UDPConn) *socket {
	paced := newPacedConn(udp)
	return &socket{udp: udp, paced: paced, users: 1, transport: &quic.Transport{Conn: paced, ConnectionIDLength: connectionIDLen, DisableVersionNegotiationPackets: true}}
}

func (s *socket) join() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

// leave ends the use of a socket. The last one waits until all is closed.
func (s *socket) leave() {
	s.mu.Lock()
	s.users--
	last := s.users == 0
	s.mu.Unlock()
	if last {
		_ = s.transport.Close()
		_ = s.udp.Close()
	}
}

// connect makes the handshake of a client, until ctx is done. A socket has one client.
func (s *socket) connect(ctx context.Context, to *net.UDPAddr, c *tls.Config, of *quic.Config) (*quic.Conn, error) {
	s.paced.open()
	q, err := s.transport.Dial(ctx, to, dialling(s.transport, c), of)
	return q, meaning(err)
}

// dial makes the handshake of a client, until ctx is done, and opens the stream.
func (s *socket) dial(ctx context.Context, to *net.UDPAddr, c *tls.Config) (*conn, error) {
	q, err := s.connect(ctx, to, c, config(-1))
	if err != nil {
		return nil, err
	}
	n := newConn(q)
	if err = n.check(); err == nil {
		n.stream, err = q.OpenStream()
	}
	if err != nil {
		n.close()
		return nil, meaning(err)
	}
	close(n.opened)
	return n, nil
}

// A door is what the library asks about strangers. None of it may wait.
type door struct {
	crowded func() bool                                              // do clients have to prove their addresses first
	arrived func(context.Context, net.Addr) (context.Context, error) // a stranger may begin a handshake, or not
}

// listen begins to take connections. What arrived returned is above the context of the handshake and of the connection.
func (s *socket) listen(c *tls.Config, of *quic.Config, d door) (*acceptor, error) {
	s.transport.StatelessResetKey = resetKey(c)
	s.transport.VerifySourceAddress = func(net.Addr) bool { return d.crowded() }
	s.transport.ConnContext = func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
		return d.arrived(ctx, info.RemoteAddr)
	}
	defer s.paced.open()
	l, err := s.transport.Listen(c, of)
	if err == nil {
		_ = standing(l)
	}
	return &acceptor{l}, err
}

// An acceptor has the connections whose handshake is over.
type acceptor struct{ l *quic.Listener }

// accept waits for the next one, and returns its context too.
func (a *acceptor) accept(ctx context.Context) (context.Context, *conn, error) {
	q, err := a.l.Accept(ctx)
	if err != nil {
		return nil, nil, err
	}
	return q.Context(), newConn(q), nil
}

// close ends accept, and all handshakes.
func (a *acceptor) close() { _ = a.l.Close() }

// resetKey makes the secret by which a gateway that was started anew tells clients of before that it does not know them
// (RFC 9000, section 10.3.1). It has to be the same one then, so it is derived from the key of the gateway.
func resetKey(c *tls.Config) *quic.StatelessResetKey {
	if len(c.Certificates) == 0 {
		return nil
	}
	private, ok := c.Certificates[0].PrivateKey.(ed25519.PrivateKey)
	if !ok {
		return nil
	}
	secret, err := hkdf.Key(sha256.New, private.Seed(), nil, "ferry quic stateless reset", len(quic.StatelessResetKey{}))
	if err != nil {
		panic("quic: " + err.Error()) // the length is one that HKDF has
	}
	key := quic.StatelessResetKey(secret)
	return &key
}

// errDatagrams is for a peer that is no Ferry of this version.
var errDatagrams = errors.New("the other end takes no QUIC datagrams")

// A conn is a connection of the library.
type conn struct {
	q      *quic.Conn
	opened chan struct{} // closed when stream is set
	stream *quic.Stream
}

// newConn wraps a connection whose handshake is over. The stream is set by who opens or accepts it.
func newConn(q *quic.Conn) *conn { return &conn{q: q, opened: make(chan struct{})} }

// check tells whether the other end takes datagrams that are long enough.
func (n *conn) check() error {
	if !n.q.ConnectionState().SupportsDatagrams.Remote || n.limit(make([]byte, tooLong)) < leastLimit {
		return errDatagrams
	}
	return nil
}

// accept waits for the stream that the client opens.
func (n *conn) accept() (err error) {
	if n.stream, err = n.q.AcceptStream(n.patient()); err == nil {
		close(n.opened)
	}
	return err
}

// patient is a context that does not end: who waits with it is told of the end by what he waits for, and gets what came before.
func (n *conn) patient() context.Context { return context.WithoutCancel(n.q.Context()) }

// send sends a datagram, and waits while 32 are queued. One that is longer than what fits now is not sent: then it returns that
// length, and no error.
func (n *conn) send(b []byte) (limit int, err error) {
	err = n.q.SendDatagram(b)
	if long := new(quic.DatagramTooLargeError); errors.As(err, &long) {
		return int(long.MaxDatagramPayloadSize), nil
	}
	return 0, err
}

// limit returns the length of the longest datagram that fits into a packet now. The library tells it to who tries a longer
// one: scratch has tooLong bytes or more, of any content.
func (n *conn) limit(scratch []byte) int {
	limit, _ := n.send(scratch[:tooLong])
	return limit
}

// receive waits for a datagram, which belongs to the caller.
func (n *conn) receive() ([]byte, error) { return n.q.ReceiveDatagram(n.patient()) }

// ended is closed when the connection is.
func (n *conn) ended() <-chan struct{} { return n.q.Context().Done() }

// cause returns why the connection has ended.
func (n *conn) cause() error { return meaning(context.Cause(n.q.Context())) }

// close tells the other end that this one has come to its end in order.
func (n *conn) close() { _ = n.q.CloseWithError(0, "") }

func (n *conn) remote() Addr { return addrOf(n.q.RemoteAddr()) }

func (n *conn) state() tls.ConnectionState { return n.q.ConnectionState().TLS }

// meaning says in words of package net why a connection has ended. To the library each of its errors is net.ErrClosed too.
func meaning(err error) error {
	var app *quic.ApplicationError
	var transport *quic.TransportError
	switch {
	case err == nil, err == io.EOF:
		return err
	case errors.As(err, &app) && app.Remote:
		return io.EOF
	case errors.As(err, &app):
		return net.ErrClosed
	case errors.As(err, &transport):
		return transportMeaning(transport)
	case errors.As(err, new(*quic.StatelessResetError)):
		return os.NewSyscallError("read", syscall.ECONNRESET) // the gateway was started anew
	case errors.As(err, new(*quic.IdleTimeoutError)), errors.As(err, new(*quic.HandshakeTimeoutError)):
		return os.ErrDeadlineExceeded
	case errors.As(err, new(*quic.VersionNegotiationError)), errors.As(err, new(*quic.StreamError)):
		return errors.New(err.Error())
	}
	return err
}

const alertInternalError = 80 // RFC 8446, section 6: what crypto/tls says for who was refused by admit

func transportMeaning(e *quic.TransportError) error {
	switch alert := tls.AlertError(e.ErrorCode - 0x100); {
	case e.Remote && (e.ErrorCode == quic.ConnectionRefused || e.ErrorCode == 0x100+alertInternalError):
		return os.NewSyscallError("connect", syscall.ECONNRESET) // as a TCP gateway that lets nobody in
	case e.Remote && e.ErrorCode.IsCryptoError():
		return &net.OpError{Op: "remote error", Err: alert} // as of crypto/tls
	case !e.Remote && len(e.Unwrap()) == 2 && e.Unwrap()[1] != nil:
		return e.Unwrap()[1] // why we refused the other end
	}
	return errors.New(e.Error())
}
