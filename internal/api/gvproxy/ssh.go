package gvproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"ferry/internal/forward"
)

// maxKey bounds what is read of a file with a key, bytes.
const maxKey = 64 << 10

// An sshTunnel leads to a unix socket of a client, by SSH:
//
//	ssh-tunnel://user[:password]@192.168.127.2[:22]/path/of/the.sock?key=FILE[&passphrase=TEXT]&hostkey=SHA256:...
//
// Who the client is has to be said, by hostkey, the fingerprint of its SSH server's key ('ssh-keygen -lf'), unless the URL has secure=false. gvproxy looks only if
// there is secure=true, and in known_hosts of the user's home.
//
// Each connection has one of SSH to itself: what a client does not answer to is ended with it, and hurts no other.
type sshTunnel struct {
	at     forward.Target
	path   string
	dial   func(context.Context, netip.AddrPort) (net.Conn, error)
	config *ssh.ClientConfig
}

var (
	errHostKey = errors.New("is the client the one that is meant? Add hostkey=SHA256:... to the remote, the fingerprint of its SSH server's key ('ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' there), or secure=false to believe it")
	errNoKeys  = errors.New("this gateway opens no keys: name it in gvproxy_keys of its configuration")
)

func (a *API) parseTunnel(u *url.URL) (*sshTunnel, error) {
	q := u.Query()
	file := q.Get("key")
	if file == "" {
		return nil, errors.New("key not provided for unix-ssh connection")
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	if u.Path == "" || u.Path == "/" {
		return nil, errors.New("remote uri must contain a path to a socket file")
	}
	at, err := target(net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	check, err := hostKey(q)
	if err != nil {
		return nil, badRequest{err}
	}
	signer, err := a.key(file, q.Get("passphrase"))
	if err != nil {
		return nil, fmt.Errorf("failed to parse identity %q: %w", file, err)
	}
	methods := []ssh.AuthMethod{ssh.PublicKeys(signer)}
	if password, ok := u.User.Password(); ok {
		methods = append(methods, ssh.Password(password))
	}
	return &sshTunnel{
		at: at, path: u.Path, dial: a.c.Clients.Dial,
		config: &ssh.ClientConfig{User: u.User.Username(), Auth: methods, HostKeyCallback: check},
	}, nil
}

// hostKey returns what checks the key of an SSH server.
func hostKey(q url.Values) (ssh.HostKeyCallback, error) {
	want := strings.ReplaceAll(q.Get("hostkey"), " ", "+") // which a plus is, unless it was written as %2B
	if want == "" {
		if secure, err := strconv.ParseBool(q.Get("secure")); err == nil && !secure {
			return ssh.InsecureIgnoreHostKey(), nil
		}
		return nil, errHostKey
	}
	if !strings.HasPrefix(want, "SHA256:") {
		return nil, fmt.Errorf("hostkey=%s: write it as SHA256:..., as 'ssh-keygen -lf' prints it", want)
	}
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if got := ssh.FingerprintSHA256(key); got != want {
			return fmt.Errorf("the client's host key is %s, and hostkey= says %s", got, want)
		}
		return nil
	}, nil
}

func (a *API) key(file, passphrase string) (ssh.Signer, error) {
	if a.c.OpenKey == nil {
		return nil, errNoKeys
	}
	f, err := a.c.OpenKey(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(bytes.TrimSpace(text))
	if errors.As(err, new(*ssh.PassphraseMissingError)) {
		return ssh.ParsePrivateKeyWithPassphrase(text, []byte(passphrase))
	}
	return signer, err
}

// Dial connects to the socket. It is forward.Spec.Via.
func (t *sshTunnel) Dial(ctx context.Context) (net.Conn, error) {
	at := netip.AddrPortFrom(t.at.Addr, t.at.Port)
	conn, err := t.dial(ctx, at)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	inside, chans, requests, err := ssh.NewClientConn(conn, at.String(), t.config)
	var client *ssh.Client
	var channel net.Conn
	if err == nil {
		client = ssh.NewClient(inside, chans, requests)
		channel, err = client.DialContext(ctx, "unix", t.path)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("ssh to %s: %w", at, err)
	}
	return &sshConn{Conn: channel, client: client}, nil
}

// An sshConn is a connection to a socket of a client. It has the connection of SSH to itself.
type sshConn struct {
	net.Conn
	client *ssh.Client
}

// CloseWrite ends one direction.
func (c *sshConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// WriteTo implements io.WriterTo. The block is little beside the window of SSH, 2 MiB.
func (c *sshConn) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{c.Conn}, make([]byte, 32<<10))
}

// Close ends all, whatever the client answers.
func (c *sshConn) Close() error { return c.client.Close() }
