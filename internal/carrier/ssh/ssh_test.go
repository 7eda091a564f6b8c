package ssh

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

const patience = 20 * time.Second

// No goroutine is left, of ours or of the library's.
func TestMain(m *testing.M) {
	status := m.Run()
	if status == 0 {
		if left := leftovers(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
			status = 1
		}
	}
	os.Exit(status)
}

// leftovers returns the stacks of goroutines that serve connections, once they had the time to end.
func leftovers() string {
	var left []string
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left = nil
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "x/crypto/ssh") || strings.Contains(stack, "ssh.(*conn)") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

func everybody(identity.Public) error { return nil }

// only admits one key.
func only(key identity.Key) func(identity.Public) error {
	return func(p identity.Public) error {
		if p != key.Public() {
			return errStranger
		}
		return nil
	}
}

var errStranger = errors.New("a stranger")

// A result is what Server returns.
type result struct {
	conn net.Conn
	key  identity.Public
	err  error
}

// gateway serves one connection, which the test closes.
func gateway(t testing.TB, ctx context.Context, key identity.Key, admit func(identity.Public) error) (carrier.Endpoint, <-chan result) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan result, 1)
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			served <- result{err: err}
			return
		}
		var r result
		r.conn, r.key, r.err = Server(ctx, conn, key, admit)
		served <- r
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return carrier.Endpoint{Scheme: "ssh", Host: "127.0.0.1", Port: uint32(l.Addr().(*net.TCPAddr).Port)}, served
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pair returns the two ends of a stream, which the test closes.
func pair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ctx, ours, theirs := within(t), identity.NewKey(), identity.NewKey()
	e, served := gateway(t, ctx, ours, only(theirs))
	client, err := Dial(ctx, e, nil, theirs, only(ours))
	if err != nil {
		t.Fatal(err)
	}
	r := <-served
	if r.err != nil || r.key != theirs.Public() {
		t.Fatalf("got the key %s, %v", r.key, r.err)
	}
	t.Cleanup(func() { client.Close(); r.conn.Close() })
	return client, r.conn
}

// pump sends data through a stream and wants it at the other end.
func pump(t *testing.T, from, to *carrier.Stream, size int) {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	sent := make(chan error, 1)
	go func() { sent <- from.Write(data, func() {}) }()
	var got []byte
	for len(got) < len(data) {
		buf, start, end, err := to.Fill()
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got = append(got, buf[start:end]...)
		to.Consume(end - start)
	}
	if err := <-sent; err != nil || !bytes.Equal(got, data) {
		t.Errorf("%v; got %d bytes, want the %d that were sent", err, len(got), len(data))
	}
}

func TestStream(t *testing.T) {
	client, server := pair(t)
	a, b := carrier.NewStream(client), carrier.NewStream(server)
	pump(t, a, b, 5<<20) // more than the window of a channel
	pump(t, b, a, 5<<20)

	addr, ok := client.RemoteAddr().(Addr)
	if want := server.LocalAddr(); !ok || addr.Network() != "ssh" || addr.String() != want.String() || addr.AddrPort().Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("the remote address is %s %s, want ssh %s", client.RemoteAddr().Network(), client.RemoteAddr(), want)
	}
	if (Addr{&net.UnixAddr{}}).AddrPort().IsValid() {
		t.Error("a path has an address")
	}
	if err := client.SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
		t.Errorf("deadline: %v", err)
	}
}

// What was written before the end is read, and then the end: io.EOF at the other end, net.ErrClosed at ours.
func TestEnd(t *testing.T) {
	for name, swapped := range map[string]bool{"of the client": false, "of the gateway": true} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			if swapped {
				a, b = b, a
			}
			if _, err := a.Write([]byte("last words")); err != nil {
				t.Fatal(err)
			}
			waiting := make(chan error, 1)
			go func() { _, err := a.Read(make([]byte, 1)); waiting <- err }()
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			if err := <-waiting; !errors.Is(err, net.ErrClosed) {
				t.Errorf("the read that was under way: %v, want %v", err, net.ErrClosed)
			}
			if got, err := io.ReadAll(b); string(got) != "last words" || err != nil {
				t.Errorf("the other end got %q, %v", got, err)
			}
			for op, err := range map[string]error{"close": a.Close(), "read": second(a.Read(make([]byte, 1))), "write": second(a.Write([]byte{1}))} {
				var inner *net.OpError
				if !errors.Is(err, net.ErrClosed) || !errors.As(err, &inner) || inner.Op != op || inner.Net != "ssh" {
					t.Errorf("%s after the end: %v, want %v", op, err, net.ErrClosed)
				}
			}
			if _, err := b.Write([]byte{1}); err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
				t.Errorf("the other end wrote: %v, want an error of its own kind", err)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// Close does not wait for an end that does not read.
func TestCloseWhileWriting(t *testing.T) {
	a, b := pair(t)
	written := make(chan error, 1)
	go func() {
		_, err := a.Write(make([]byte, 32<<20))
		written <- err
	}()
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := <-written; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
}

// A connection that breaks is not an end in order.
func TestReset(t *testing.T) {
	a, b := pair(t)
	carrier.Reset(a.(*conn).wire.Conn)
	_, err := b.Read(make([]byte, 1))
	if err == nil || err == io.EOF || errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want that it was reset", err)
	}
}

func TestWrongGateway(t *testing.T) {
	ctx, ours, theirs := within(t), identity.NewKey(), identity.NewKey()
	e, served := gateway(t, ctx, ours, only(theirs))
	_, err := Dial(ctx, e, nil, theirs, only(theirs))
	if !errors.Is(err, errStranger) || !errors.Is(err, ErrHandshake) || errors.Is(err, ErrLogin) {
		t.Errorf("client: %v, want the error of verify", err)
	}
	if r := <-served; r.err == nil || r.key != (identity.Public{}) {
		t.Errorf("gateway: %v, %v", r.key, r.err)
	}
}

func TestUnknownClient(t *testing.T) {
	ctx, ours, theirs := within(t), identity.NewKey(), identity.NewKey()
	e, served := gateway(t, ctx, ours, only(ours))
	if _, err := Dial(ctx, e, nil, theirs, only(ours)); !errors.Is(err, ErrLogin) {
		t.Errorf("client: %v, want %v", err, ErrLogin)
	}
	if r := <-served; !errors.Is(r.err, errStranger) || !errors.Is(r.err, ErrHandshake) || r.key != (identity.Public{}) || r.conn != nil {
		t.Errorf("gateway: %v, %v, %v; want the error of admit", r.conn, r.key, r.err)
	}
}

// signer is a key of the library's client; it names a key that it may not own.
type signer struct {
	named ssh.PublicKey
	ssh.Signer
}

func (s signer) PublicKey() ssh.PublicKey { return s.named }

func signerOf(t testing.TB, k identity.Key) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromSigner(k.Signer())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// login connects as any client of SSH may.
func stockLogin(t testing.TB, e carrier.Endpoint, c *ssh.ClientConfig) (*ssh.Client, error) {
	t.Helper()
	c.HostKeyCallback = ssh.InsecureIgnoreHostKey()
	c.Timeout = patience
	client, err := ssh.Dial("tcp", fmt.Sprintf("%s:%d", e.Host, e.Port), c)
	if err == nil {
		t.Cleanup(func() { client.Close() })
	}
	return client, err
}

func TestLogins(t *testing.T) {
	device, thief := identity.NewKey(), identity.NewKey()
	good, bad := signerOf(t, device), signerOf(t, thief)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ssh.NewSignerFromKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &ssh.Certificate{Key: good.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity, ValidPrincipals: []string{user}}
	if err := certificate.SignCert(rand.Reader, bad); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(certificate, good)
	if err != nil {
		t.Fatal(err)
	}
	keys := func(s ...ssh.Signer) []ssh.AuthMethod { return []ssh.AuthMethod{ssh.PublicKeys(s...)} }
	secured, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Kind        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, make([]byte, 32), "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []ssh.PublicKey{certified.PublicKey(), other.PublicKey(), secured} {
		if _, err := publicOf(key); err != errKey {
			t.Errorf("%s: %v, want %v", key.Type(), err, errKey)
		}
	}
	tests := []struct {
		name string
		user string
		auth []ssh.AuthMethod
		want error // nil: any
	}{
		{"another user", "root", keys(good), errUser},
		{"no key", user, nil, nil},
		{"a password", user, []ssh.AuthMethod{ssh.Password("ferry")}, nil},
		{"an unknown key", user, keys(bad), errStranger},
		{"an unknown key before the right one", user, keys(bad, good), errStranger},
		{"a key that is not its own", user, keys(signer{good.PublicKey(), bad}), nil},
		{"a key of another kind", user, keys(other), nil},
		{"a certificate", user, keys(certified), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, served := gateway(t, within(t), identity.NewKey(), only(device))
			if _, err := stockLogin(t, e, &ssh.ClientConfig{User: tt.user, Auth: tt.auth}); err == nil {
				t.Error("the client is in")
			}
			if r := <-served; !errors.Is(r.err, ErrHandshake) || tt.want != nil && !errors.Is(r.err, tt.want) || r.conn != nil || r.key != (identity.Public{}) {
				t.Errorf("got %v, %v, %v; want %v", r.conn, r.key, r.err, tt.want)
			}
		})
	}
}

// silent is a signer that asks about its key and then gives no signature.
type silent struct{ ssh.Signer }

func (silent) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, errors.New("not mine") }

// A client that asks about a key which the gateway knows, and then logs in with its own, is known by its own
// (CVE-2024-45337).
func TestKeyThatIsAskedAboutOnly(t *testing.T) {
	victim, own := identity.NewKey(), identity.NewKey()
	e, served := gateway(t, within(t), identity.NewKey(), everybody)
	keys, tried := []ssh.Signer{silent{signerOf(t, victim)}, signerOf(t, own)}, 0
	client, err := stockLogin(t, e, &ssh.ClientConfig{User: user, AuthCallback: func(*ssh.ClientAuthContext) (ssh.AuthMethod, error) {
		tried++
		return ssh.PublicKeys(keys[tried-1]), nil
	}})
	if err != nil {
		t.Fatal(err, tried, (<-served).err)
	}
	channel, _, err := client.OpenChannel(session, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := channel.SendRequest("subsystem", true, subsystemPayload()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	r := <-served
	if r.err != nil || r.key != own.Public() || tried != 2 {
		t.Fatalf("got %s, %v after %d keys; want %s", r.key, r.err, tried, own.Public())
	}
	r.conn.Close()
}

func port(e carrier.Endpoint) string { return fmt.Sprint(e.Port) }

func BenchmarkStream(b *testing.B) {
	client, server := pair(b)
	from, to := carrier.NewStream(client), carrier.NewStream(server)
	data := make([]byte, 64<<10)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	sent := make(chan error, 1)
	go func() {
		for range b.N {
			if err := from.Write(data, func() {}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for left := b.N * len(data); left > 0; {
		_, start, end, err := to.Fill()
		if err != nil {
			b.Fatal(err)
		}
		to.Consume(end - start)
		left -= end - start
	}
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
}
