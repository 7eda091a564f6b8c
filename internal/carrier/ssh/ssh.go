// Package ssh is the carrier for networks that let out nothing but SSH: Ferry's stream in a channel of an
// SSH connection (RFC 4253, RFC 4254).
//
//	client                                         gateway
//	   ── key exchange, host key ────────────────────▶   the gateway's key, which the client knows
//	   ── user "ferry", public key and signature ────▶   the device's key, which the gateway knows
//	   ── channel "session" ─────────────────────────▶   one
//	   ── request: subsystem "ferry" ────────────────▶   once
//	   ◀═══════════ bytes of docs/protocol.md ═══════▶   both directions, 2 MiB ahead of who reads at most
//
// The keys are those of package identity, so no TLS is inside. The library is golang.org/x/crypto/ssh; this
// package chooses what it may do, and bounds what it takes from strangers (type guard).
//
// The rules are:
//
//   - Ed25519 keys only, on both sides; no certificates of SSH, no passwords.
//   - A key counts once its signature was verified. SSH lets a client ask about keys that are not its own.
//   - The subsystem is all that there is: no shell, command, terminal, environment, agent or forwarding. Who
//     asks for one of them before the subsystem ends the connection; later it is refused.
//   - Time is bounded by the caller's ctx until the stream is there, and by the layers above behind that.
package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

const (
	user      = "ferry"
	subsystem = "ferry"
	session   = "session" // the kind of channel that has subsystems (RFC 4254, section 6.1)
)

// Errors, which come with their cause.
var (
	// ErrHandshake: the two ends did not come to a connection.
	ErrHandshake = errors.New("SSH handshake")
	// ErrLogin is returned by Dial when the gateway was the right one, and did not take the key of the device.
	ErrLogin = errors.New("the gateway does not let this key in")
	// ErrService is returned by Server for a client that wants what SSH servers do otherwise.
	ErrService = errors.New("the subsystem ferry is all that there is")

	errKey  = errors.New("the key is not an Ed25519 key")
	errUser = errors.New("the name of the user is not " + user)
)

// offer is what both ends are ready to use. The MAC is there for the format: the ciphers have theirs.
func offer() ssh.Config {
	ciphers := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}
	if !cpu.X86.HasAES && !cpu.ARM64.HasAES {
		ciphers[0], ciphers[2] = ciphers[2], ciphers[0]
	}
	return ssh.Config{
		KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
		Ciphers:      ciphers,
		MACs:         []string{ssh.HMACSHA256ETM},
	}
}

// publicOf returns the key that SSH has in an envelope of its own.
func publicOf(key ssh.PublicKey) (identity.Public, error) {
	k, ok := key.(ssh.CryptoPublicKey)
	if !ok || key.Type() != ssh.KeyAlgoED25519 { // a key in a security key is of another
		return identity.Public{}, errKey
	}
	public, ok := k.CryptoPublicKey().(ed25519.PublicKey)
	if !ok || len(public) != len(identity.Public{}) {
		return identity.Public{}, errKey
	}
	return identity.Public(public), nil
}

// cause prefers the end of ctx to what followed from it.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Dial connects to an endpoint ssh://host:port, proves both keys and opens the channel. verify decides about
// the key of the gateway, which is proven then; its error is returned as it is, wrapped.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, key identity.Key, verify func(identity.Public) error) (net.Conn, error) {
	raw, err := carrier.DialTCP(ctx, e, o)
	if err != nil {
		return nil, err
	}
	c, err := client(ctx, raw, key, verify)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	return c, nil
}

// client makes the handshake over a connection, which it closes when that does not succeed.
func client(ctx context.Context, raw net.Conn, key identity.Key, verify func(identity.Public) error) (net.Conn, error) {
	w := &wire{Conn: carrier.Paced(raw)}
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	defer stop()
	signer, err := ssh.NewSignerFromSigner(key.Signer())
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	h := &hostKey{verify: verify}
	sc, channels, requests, err := ssh.NewClientConn(w, "", &ssh.ClientConfig{
		Config: offer(), User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, HostKeyCallback: h.check,
	})
	if err != nil {
		return nil, h.explain(cause(ctx, err))
	}
	c := newConn(w)
	c.serve(func() { refuseChannels(channels) })
	c.serve(func() { ssh.DiscardRequests(requests) })
	if err := c.open(sc); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("%w: %w", ErrHandshake, cause(ctx, err))
	}
	if !stop() {
		_ = c.Close()
		return nil, context.Cause(ctx)
	}
	return c, nil
}

// A hostKey is the key of a gateway as a client comes to know it.
type hostKey struct {
	verify func(identity.Public) error
	key    identity.Public // zero: none was proven
}

// check is called when a key was proven: at first, and again whenever the keys of the connection change.
func (h *hostKey) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	public, err := publicOf(key)
	switch {
	case err != nil:
	case h.key == identity.Public{}:
		if err = h.verify(public); err == nil {
			h.key = public
		}
	case h.key != public:
		err = errors.New("the gateway has changed its key meanwhile")
	}
	return err
}

// explain says what the error of a handshake means.
func (h *hostKey) explain(err error) error {
	if h.key == (identity.Public{}) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return fmt.Errorf("%w: 'vpnsrv peer list' shows whose keys it knows: %w", ErrLogin, err)
}

// Server makes the handshake of a gateway over an accepted connection and waits for the subsystem, until ctx
// is done. admit decides about the key of the client, whether or not it is the client's own yet; the key that
// is returned is proven. conn is closed when that does not succeed.
func Server(ctx context.Context, conn net.Conn, key identity.Key, admit func(identity.Public) error) (net.Conn, identity.Public, error) {
	w := &wire{Conn: carrier.Paced(conn), guard: newGuard()}
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	defer stop()
	l := &login{guard: w.guard, admit: admit}
	config, err := l.config(key)
	if err != nil {
		return nil, identity.Public{}, errors.Join(err, w.Close())
	}
	sc, channels, requests, err := l.handshake(w, config)
	switch {
	case err != nil && l.refusal != nil:
		return nil, identity.Public{}, fmt.Errorf("%w: %w", ErrHandshake, l.refusal)
	case err != nil:
		return nil, identity.Public{}, fmt.Errorf("%w: %w", ErrHandshake, cause(ctx, err))
	}
	c := newConn(w)
	asked, err := c.await(channels, requests)
	c.serve(func() { refuseChannels(channels) })
	c.serve(func() { ssh.DiscardRequests(requests) })
	if asked != nil {
		c.serve(func() { ssh.DiscardRequests(asked) })
	}
	if err == nil && !stop() {
		err = net.ErrClosed
	}
	if err != nil {
		_ = c.Close()
		return nil, identity.Public{}, fmt.Errorf("%w: %w", ErrHandshake, cause(ctx, err))
	}
	return c, identity.Public([]byte(sc.Permissions.Extensions[proven])), nil
}

// proven is the name under which the library keeps the key that a client has proven.
const proven = "ferry-key"

// A login is that of one client.
type login struct {
	guard   *guard
	admit   func(identity.Public) error
	asked   bool  // admit was
	refusal error // of the last key
}

// handshake is ssh.NewServerConn without its panic. A stranger who begins a second key exchange right behind the
// first, and agrees to nothing there, takes the algorithms of the first away from under the library, which
// reads them (golang.org/x/crypto v0.58.0): a nil pointer that would end the gateway.
func (l *login) handshake(w *wire, config *ssh.ServerConfig) (sc *ssh.ServerConn, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request, err error) {
	defer func() {
		p := recover()
		switch {
		case p == nil:
		case l.asked: // admit has a part in it
			panic(p)
		default:
			err = errors.Join(errTalk, w.Close())
		}
	}()
	return ssh.NewServerConn(w, config)
}

func (l *login) config(key identity.Key) (*ssh.ServerConfig, error) {
	signer, err := ssh.NewSignerFromSigner(key.Signer())
	if err != nil {
		return nil, err
	}
	c := &ssh.ServerConfig{
		Config:                    offer(),
		PublicKeyAuthAlgorithms:   []string{ssh.KeyAlgoED25519},
		MaxAuthTries:              1, // a client has one key
		PublicKeyCallback:         l.offered,
		VerifiedPublicKeyCallback: l.verified,
	}
	c.AddHostKey(signer)
	return c, nil
}

// offered is called for each key that a client would like to use, with or without a signature.
func (l *login) offered(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	l.guard.keyOffered()
	public, err := publicOf(key)
	switch {
	case err != nil:
	case c.User() != user:
		err = errUser
	default:
		l.asked = true
		err = l.admit(public)
	}
	l.refusal = err
	return nil, err
}

// verified is called for the key with which the client gets in, once its signature was found good.
func (l *login) verified(_ ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	public, err := publicOf(key)
	if err != nil {
		return nil, err
	}
	l.guard.trust()
	return &ssh.Permissions{Extensions: map[string]string{proven: string(public[:])}}, nil
}

// subsystemPayload is the rest of a request for it (RFC 4254, section 6.5).
func subsystemPayload() []byte { return ssh.Marshal(struct{ Name string }{subsystem}) }

// open opens the channel of a client.
func (c *conn) open(sc ssh.Conn) error {
	channel, requests, err := sc.OpenChannel(session, nil)
	if err != nil {
		return err
	}
	c.channel = channel
	c.serve(func() { ssh.DiscardRequests(requests) })
	ok, err := channel.SendRequest("subsystem", true, subsystemPayload())
	if err == nil && !ok {
		err = errors.New("the server has no subsystem ferry: is it vpnsrv?")
	}
	return err
}

// await waits until the client of a gateway has opened its channel and asked for the subsystem. The requests
// of the channel are returned, if there is one. What wants no answer gets none, whatever it is.
func (c *conn) await(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) (asked <-chan *ssh.Request, err error) {
	for err == nil {
		select {
		case n, ok := <-channels:
			switch {
			case !ok:
				err = io.ErrUnexpectedEOF
			case c.channel != nil || n.ChannelType() != session:
				err = errors.Join(service("channel", n.ChannelType()), refuseChannel(n))
			default:
				c.channel, asked, err = n.Accept()
			}
		case r, ok := <-requests:
			err = refuse("global request", r, ok)
		case r, ok := <-asked:
			if ok && r.Type == "subsystem" && bytes.Equal(r.Payload, subsystemPayload()) {
				return asked, r.Reply(true, nil)
			}
			err = refuse("request", r, ok)
		}
	}
	return asked, err
}

// service says what was asked for: a stranger's text, of which not much is taken.
func service(kind, name string) error { return fmt.Errorf("%w: %s %.40q", ErrService, kind, name) }

// refuse answers a request, if there is one, and ends the connection when the answer mattered.
func refuse(kind string, r *ssh.Request, ok bool) error {
	switch {
	case !ok:
		return io.ErrUnexpectedEOF
	case !r.WantReply:
		return nil
	}
	return errors.Join(service(kind, r.Type), r.Reply(false, nil))
}

func refuseChannel(n ssh.NewChannel) error {
	return n.Reject(ssh.Prohibited, ErrService.Error())
}

// refuseChannels refuses what comes until the connection ends.
func refuseChannels(channels <-chan ssh.NewChannel) {
	for n := range channels {
		_ = refuseChannel(n)
	}
}
