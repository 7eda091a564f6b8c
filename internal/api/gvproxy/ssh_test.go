package gvproxy

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// newKey makes a key, and a file with it.
func newKey(t *testing.T, passphrase string) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer, path
}

// sshd is the SSH server of a client: user core with one key reaches the socket /run/guest.sock, which echoes.
func sshd(t *testing.T, host ssh.Signer, login ssh.PublicKey) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp4", clients[0].String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	c := &ssh.ServerConfig{PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if meta.User() != "core" || string(key.Marshal()) != string(login.Marshal()) {
			return nil, errors.New("who is that?")
		}
		return nil, nil
	}}
	c.AddHostKey(host)
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serveSSH(conn, c) })
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func serveSSH(conn net.Conn, c *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, c)
	if err != nil {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { ssh.DiscardRequests(requests) })
	for asked := range channels {
		var to struct {
			Path     string
			Reserved string
			Port     uint32
		}
		if err := ssh.Unmarshal(asked.ExtraData(), &to); err != nil || asked.ChannelType() != "direct-streamlocal@openssh.com" || to.Path != "/run/guest.sock" {
			_ = asked.Reject(ssh.ConnectionFailed, "no such socket")
			continue
		}
		channel, more, err := asked.Accept()
		if err != nil {
			return
		}
		all.Go(func() { ssh.DiscardRequests(more) })
		all.Go(func() {
			_, _ = io.WriteString(channel, "hello ")
			_, _ = io.Copy(channel, channel)
			_ = channel.CloseWrite()
			_ = channel.Close()
		})
	}
}

// A socket in a client is exposed by SSH. Who the client is has to be known.
func TestSSHTunnel(t *testing.T) {
	l := newLab(t)
	login, file := newKey(t, "")
	host, _ := newKey(t, "")
	port := sshd(t, host, login.PublicKey())
	finger := url.QueryEscape(ssh.FingerprintSHA256(host.PublicKey()))
	expose := func(user, path, query string) (local, answer string) {
		local = filepath.Join(t.TempDir(), "x.sock")
		remote := fmt.Sprintf("ssh-tunnel://%s@127.0.0.2:%d%s?%s", user, port, path, query)
		return local, l.ask("POST", "/services/forwarder/expose", fmt.Sprintf(`{"local":%q,"remote":%q,"protocol":"unix"}`, local, remote))
	}
	const sock = "/run/guest.sock"
	big := strings.Repeat("0123456789", 300_000) // more than the window of SSH
	for _, query := range []string{"key=" + file + "&hostkey=" + finger, "key=" + file + "&secure=false"} {
		local, answer := expose("core", sock, query)
		if answer != "200 " {
			t.Fatal(answer)
		}
		if got := says(t, "unix", local, big); got != "hello "+big {
			t.Errorf("%s: %d bytes, %.40q", query, len(got), got)
		}
	}
	local, answer := expose("core", sock, "key="+file+"&hostkey="+ssh.FingerprintSHA256(host.PublicKey())) // with a bare plus
	if got := says(t, "unix", local, "x"); answer != "200 " || got != "hello x" {
		t.Errorf("as ssh-keygen prints it: %s, %q", answer, got)
	}
	_, other := newKey(t, "")
	// What only shows when somebody comes: the connection ends.
	for what, at := range map[string][3]string{
		"another host": {"core", sock, "key=" + file + "&hostkey=SHA256:AAAA"},
		"another user": {"root", sock, "key=" + file + "&hostkey=" + finger},
		"another key":  {"core", sock, "key=" + other + "&hostkey=" + finger},
		"no socket":    {"core", "/run/other.sock", "key=" + file + "&hostkey=" + finger},
	} {
		local, answer := expose(at[0], at[1], at[2])
		if got := says(t, "unix", local, "x"); answer != "200 " || strings.Contains(got, "hello") {
			t.Errorf("%s: %s, %q", what, answer, got)
		}
	}
	for query, want := range map[string]string{
		"key=" + file:                                      "400 is the client the one that is meant?",
		"key=" + file + "&secure=true":                     "400 is the client the one that is meant?",
		"key=" + file + "&hostkey=MD5:00":                  "400 hostkey=MD5:00",
		"key=/nowhere/key&secure=false":                    `500 failed to parse identity "/nowhere/key"`,
		"key=" + l.socket + "&secure=false":                "500 failed to parse identity",
		"key=" + file + "&secure=false&x=" + "%41" + "\\n": "200 ",
	} {
		if _, answer := expose("core", sock, query); !strings.HasPrefix(answer, want) {
			t.Errorf("%s: got %s, want %s", query, answer, want)
		}
	}
	without := newLab(t, func(c *Config) { c.OpenKey = nil })
	without.want("POST", "/services/forwarder/expose", fmt.Sprintf(`{"local":"/tmp/x.sock","remote":"ssh-tunnel://core@127.0.0.2/x?key=%s&secure=false","protocol":"unix"}`, file), "500 failed to parse identity")
}

// A key may have a passphrase. Not by HTTP: deriving a key takes as long as it likes on a busy machine.
func TestPassphrase(t *testing.T) {
	a := New(Config{OpenKey: os.Open})
	want, file := newKey(t, "open")
	got, err := a.key(file, "open")
	if err != nil || string(got.PublicKey().Marshal()) != string(want.PublicKey().Marshal()) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := a.key(file, "x"); err == nil {
		t.Error("it opens with another one")
	}
}

// A client whose SSH server says nothing more is not waited for when its port is unexposed.
func TestSilentSSHServer(t *testing.T) {
	l := newLab(t)
	_, file := newKey(t, "")
	silent, err := net.Listen("tcp4", clients[0].String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // who connects is never accepted
	local := filepath.Join(t.TempDir(), "x.sock")
	l.want("POST", "/services/forwarder/expose", fmt.Sprintf(`{"local":%q,"remote":"ssh-tunnel://core@%s/x?key=%s&secure=false","protocol":"unix"}`, local, silent.Addr(), file), "200 ")
	conn, err := net.Dial("unix", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l.want("POST", "/services/forwarder/unexpose", fmt.Sprintf(`{"local":%q,"protocol":"unix"}`, local), "200 ")
}

// A remote may have secrets, and a log is read by others: also where the remote is no URL.
func TestRemoteIsNotLogged(t *testing.T) {
	var log bytes.Buffer
	l := newLab(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, remote := range []string{
		"ssh-tunnel://core:hunter2@127.0.0.2/s%zz?key=/k&passphrase=hunter2", "ssh-tunnel://core:hunter2/@127.0.0.2/s",
		"ssh-tunnel://core:hunter2@127.0.0.2/s?key=/none&passphrase=hunter2&secure=false",
	} {
		body := fmt.Sprintf(`{"local":%q,"remote":%q,"protocol":"unix"}`, filepath.Join(t.TempDir(), "x.sock"), remote)
		l.want("POST", "/services/forwarder/expose", body, "500 ")
	}
	l.c.CloseIdleConnections()
	if n := strings.Count(log.String(), "not exposed"); n != 3 || strings.Contains(log.String(), "hunter2") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}
