package ssh

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

func stockClient(t testing.TB, e carrier.Endpoint, c ssh.Config) *ssh.Client {
	t.Helper()
	client, err := stockLogin(t, e, &ssh.ClientConfig{Config: c, User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signerOf(t, identity.NewKey()))}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestOtherServices(t *testing.T) {
	inSession := func(f func(*ssh.Session) error) func(*ssh.Client) error {
		return func(c *ssh.Client) error {
			s, err := c.NewSession()
			if err != nil {
				return err
			}
			return f(s)
		}
	}
	channel := func(kind string) func(*ssh.Client) error {
		return func(c *ssh.Client) error { _, _, err := c.OpenChannel(kind, nil); return err }
	}
	request := func(name string) func(*ssh.Session) error {
		return func(s *ssh.Session) error {
			ok, err := s.SendRequest(name, true, nil)
			if err == nil && !ok {
				err = errors.New("refused")
			}
			return err
		}
	}
	tests := []struct {
		name string
		want string // in the error of Server
		ask  func(*ssh.Client) error
	}{
		{"shell", `request "shell"`, inSession((*ssh.Session).Shell)},
		{"exec", `request "exec"`, inSession(func(s *ssh.Session) error { return s.Run("id") })},
		{"exec of the name", `request "exec"`, inSession(func(s *ssh.Session) error { return s.Start(subsystem) })},
		{"env", `request "env"`, inSession(func(s *ssh.Session) error { return s.Setenv("LANG", "C") })},
		{"pty", `request "pty-req"`, inSession(func(s *ssh.Session) error { return s.RequestPty("xterm", 24, 80, nil) })},
		{"agent", `request "auth-agent-req@openssh.com"`, inSession(request("auth-agent-req@openssh.com"))},
		{"x11", `request "x11-req"`, inSession(request("x11-req"))},
		{"another subsystem", `request "subsystem"`, inSession(func(s *ssh.Session) error { return s.RequestSubsystem("sftp") })},
		{"a long name", `request "` + strings.Repeat("x", 40) + `"`, inSession(request(strings.Repeat("x", 10000)))},
		{"dial", `channel "direct-tcpip"`, func(c *ssh.Client) error { return second(c.Dial("tcp", "127.0.0.1:22")) }},
		{"dial a path", `channel "direct-streamlocal@openssh.com"`, func(c *ssh.Client) error { return second(c.Dial("unix", "/run/x")) }},
		{"listen", `global request "tcpip-forward"`, func(c *ssh.Client) error { return second(c.Listen("tcp", "127.0.0.1:0")) }},
		{"listen on a path", `global request "streamlocal-forward@openssh.com"`, func(c *ssh.Client) error { return second(c.Listen("unix", "/run/x")) }},
		{"tun", `channel "tun@openssh.com"`, channel("tun@openssh.com")},
		{"two channels", `channel "session"`, func(c *ssh.Client) error { return errors.Join(channel(session)(c), channel(session)(c)) }},
		{"nothing", io.ErrUnexpectedEOF.Error(), func(c *ssh.Client) error { return errors.Join(c.Close(), io.EOF) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, served := gateway(t, within(t), identity.NewKey(), everybody)
			client := stockClient(t, e, ssh.Config{})
			if err := tt.ask(client); err == nil {
				t.Error("the client got it")
			}
			r := <-served
			if !errors.Is(r.err, ErrHandshake) || !strings.Contains(r.err.Error(), tt.want) || r.conn != nil {
				t.Errorf("got %v, want %q", r.err, tt.want)
			}
			if other := tt.name == "nothing"; errors.Is(r.err, ErrService) == other {
				t.Errorf("%v: is it for a service?", r.err)
			}
		})
	}
}

// stock opens the stream as any client of SSH may.
func stock(t *testing.T, c ssh.Config) (*ssh.Client, ssh.Channel, net.Conn) {
	t.Helper()
	e, served := gateway(t, within(t), identity.NewKey(), everybody)
	client := stockClient(t, e, c)
	channel, requests, err := client.OpenChannel(session, nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	// What wants no answer does no harm.
	if _, err := channel.SendRequest("env", false, nil); err != nil {
		t.Fatal(err)
	}
	if ok, err := channel.SendRequest("subsystem", true, subsystemPayload()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	r := <-served
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.conn.Close() })
	return client, channel, r.conn
}

// Behind the subsystem all else is refused, and the stream goes on.
func TestMoreThanTheSubsystem(t *testing.T) {
	client, channel, conn := stock(t, ssh.Config{})
	if _, _, err := client.OpenChannel(session, nil); err == nil {
		t.Error("there is a second channel")
	}
	if _, _, err := client.OpenChannel("direct-tcpip", nil); err == nil {
		t.Error("the gateway dials")
	}
	for _, name := range []string{"subsystem", "exec", "shell"} {
		if ok, err := channel.SendRequest(name, true, subsystemPayload()); ok || err != nil {
			t.Errorf("%s: got %t, %v", name, ok, err)
		}
	}
	if ok, _, err := client.SendRequest("tcpip-forward", true, nil); ok || err != nil {
		t.Errorf("forwarding: got %t, %v", ok, err)
	}
	go func() { _, _ = channel.Write([]byte("still there")) }()
	got := make([]byte, 11)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "still there" {
		t.Errorf("got %q, %v", got, err)
	}
	// Closing the channel alone is the end, too.
	channel.Close()
	if _, err := conn.Read(got); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
}

// New keys in mid-stream, with each cipher. The library changes them after 256 KiB at the earliest.
func TestNewKeys(t *testing.T) {
	for _, c := range offer().Ciphers {
		t.Run(c, func(t *testing.T) {
			_, channel, conn := stock(t, ssh.Config{Ciphers: []string{c}, RekeyThreshold: 1})
			data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
			go func() { _, _ = channel.Write(data); _ = channel.CloseWrite() }()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
}

// A gateway proves its key again whenever the keys change, and may not have another one then.
func TestHostKeyAgain(t *testing.T) {
	asked := 0
	h := &hostKey{verify: func(identity.Public) error { asked++; return nil }}
	one, two := signerOf(t, identity.NewKey()).PublicKey(), signerOf(t, identity.NewKey()).PublicKey()
	if err := errors.Join(h.check("", nil, one), h.check("", nil, one)); err != nil || asked != 1 {
		t.Errorf("%v after %d questions", err, asked)
	}
	if h.check("", nil, two) == nil {
		t.Error("another key is taken")
	}
}

// A server of SSH that is not Ferry's.
func TestOtherServer(t *testing.T) {
	ours := identity.NewKey()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.AddHostKey(signerOf(t, ours))
		_, channels, requests, err := ssh.NewServerConn(conn, config)
		if err == nil {
			go ssh.DiscardRequests(requests)
			_, asked, _ := (<-channels).Accept()
			go refuseChannels(channels)
			ssh.DiscardRequests(asked)
		}
		done <- err
	}()
	e := carrier.Endpoint{Scheme: "ssh", Host: "127.0.0.1", Port: uint32(l.Addr().(*net.TCPAddr).Port)}
	if _, err := Dial(within(t), e, nil, identity.NewKey(), everybody); !errors.Is(err, ErrHandshake) || !strings.Contains(err.Error(), "is it vpnsrv?") {
		t.Errorf("got %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// openssh runs OpenSSH's client with the key of a device.
func openssh(t *testing.T, key identity.Key, e carrier.Endpoint, args ...string) *exec.Cmd {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key.Signer(), "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, "ssh", append([]string{
		"-F", "none", "-i", file, "-p", port(e), "-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
	}, args...)...)
}

func TestOpenSSH(t *testing.T) {
	key := identity.NewKey()
	t.Run("the subsystem", func(t *testing.T) {
		e, served := gateway(t, within(t), identity.NewKey(), only(key))
		cmd := openssh(t, key, e, "-o", "SendEnv=PATH", "-s", "ferry@127.0.0.1", "ferry")
		cmd.Stdin = strings.NewReader("from OpenSSH")
		echoed := make(chan error, 1)
		go func() {
			r := <-served
			if r.err != nil || r.key != key.Public() {
				echoed <- errors.Join(r.err, errors.New("the key is "+r.key.String()))
				return
			}
			b, err := io.ReadAll(io.LimitReader(r.conn, 12))
			_, writeErr := r.conn.Write(bytes.ToUpper(b))
			echoed <- errors.Join(err, writeErr, r.conn.Close())
		}()
		out, _ := cmd.Output() // its status is 255: no command has ended
		if err := <-echoed; err != nil || string(out) != "FROM OPENSSH" {
			t.Errorf("got %q, %v", out, err)
		}
	})
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"a shell", []string{"ferry@127.0.0.1"}, `request "shell"`},
		{"a terminal", []string{"-tt", "ferry@127.0.0.1"}, `request "pty-req"`},
		{"a command", []string{"ferry@127.0.0.1", "id"}, `request "exec"`},
		{"sftp", []string{"-s", "ferry@127.0.0.1", "sftp"}, `request "subsystem"`},
		{"forwarding from there", []string{"-N", "-R", "0:127.0.0.1:1", "ferry@127.0.0.1"}, `global request "tcpip-forward"`},
		{"forwarding to there", []string{"-W", "127.0.0.1:1", "ferry@127.0.0.1"}, `channel "direct-tcpip"`},
		{"another user", []string{"-s", "root@127.0.0.1", "ferry"}, errUser.Error()},
		{"an old cipher", []string{"-c", "aes128-ctr", "-s", "ferry@127.0.0.1", "ferry"}, "no common algorithm"},
		{"an old exchange", []string{"-o", "KexAlgorithms=ecdh-sha2-nistp256", "-s", "ferry@127.0.0.1", "ferry"}, "no common algorithm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, served := gateway(t, within(t), identity.NewKey(), only(key))
			out, err := openssh(t, key, e, tt.args...).CombinedOutput()
			if r := <-served; err == nil || r.err == nil || !strings.Contains(r.err.Error(), tt.want) {
				t.Errorf("OpenSSH: %v, %s; gateway: %v, want %q", err, out, r.err, tt.want)
			}
		})
	}
}
