package forward

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// networks are the ways on which bytes go: in the kernel, and by borrowed blocks.
var networks = map[string]Network{"kernel": Sockets{}, "other": strange{}}

// vtunnel bug 1.3: any end of file tears down both directions. Here each direction ends alone, and every byte arrives before that.
func TestVtunnelHalfClose(t *testing.T) {
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			question, answer := random(3<<20), random(3<<20)
			heard := make(chan [32]byte, 1)
			to := serve(t, func(c *net.TCPConn) {
				b, err := io.ReadAll(c) // until the other end's half has ended
				if err != nil {
					t.Error(err)
				}
				heard <- sha256.Sum256(b)
				_, _ = c.Write(answer)
			})
			f := open(t, "tcp://127.0.0.1:0", to.String(), Config{Network: network})
			c := dial(t, f)
			if _, err := c.Write(question); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, answer) {
				t.Fatalf("got %d bytes, %v, want the %d of the answer", len(got), err, len(answer))
			}
			if <-heard != sha256.Sum256(question) {
				t.Error("the question arrived changed")
			}
			eventually(t, "the connection has ended", func() bool { return f.Stats().Live == 0 })
			if s := f.Stats(); s.Total != 1 || s.Up != 3<<20 || s.Down != 3<<20 {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// vtunnel bug 1.4-5: a banner that the destination sends at once is not lost.
func TestVtunnelBanner(t *testing.T) {
	to := serve(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n") })
	got, err := io.ReadAll(dial(t, open(t, "tcp://127.0.0.1:0", to.String(), Config{})))
	if err != nil || string(got) != "SSH-2.0-x\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// A reset passes both ways.
func TestReset(t *testing.T) {
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			end := make(chan error, 1)
			fromClient := serve(t, func(c *net.TCPConn) {
				_, _ = c.Read(make([]byte, 1))
				_ = c.SetLinger(0)
			})
			c := dial(t, open(t, "tcp://127.0.0.1:0", fromClient.String(), Config{Network: network}))
			_, _ = c.Write([]byte("x"))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client reset, and here is %v", err)
			}
			toClient := serve(t, func(c *net.TCPConn) {
				_, _ = c.Write([]byte("x"))
				_, err := io.ReadAll(c)
				end <- err
			})
			c = dial(t, open(t, "tcp://127.0.0.1:0", toClient.String(), Config{Network: network}))
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
			_ = c.Close()
			if err := <-end; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("reset here, and the client has %v", err)
			}
		})
	}
}

// vpnguin bug 2.5-7: a refused service looks like one that hangs up. Here it is a reset.
func TestVpnguinRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	f := open(t, "tcp://127.0.0.1:0", closed, Config{})
	wantReset(t, f)
	eventually(t, "it is counted", func() bool { return f.Stats().Failed == 1 })
}

// vpnguin bug: a client that says nothing for too long does not stay for ever. Who speaks stays.
func TestIdle(t *testing.T) {
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := serve(t, echo)
			c := dial(t, open(t, "tcp://127.0.0.1:0", to.String(), Config{Network: network, Idle: 1500 * time.Millisecond}))
			start := time.Now()
			for time.Since(start) < 3*time.Second {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatalf("ended after %s though it was not idle: %v", time.Since(start), err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("idle: got %v, want a reset", err)
			}
		})
	}
}

// A connection too many is reset, and those that are there go on.
func TestBound(t *testing.T) {
	f := open(t, "tcp://127.0.0.1:0", serve(t, echo).String(), Config{Conns: 2})
	var all []*net.TCPConn
	for range 2 {
		all = append(all, dial(t, f))
	}
	eventually(t, "two are there", func() bool { return f.Stats().Live == 2 })
	wantReset(t, f)
	for _, c := range all {
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	if s := f.Stats(); s.Full != 1 || s.Total != 2 {
		t.Errorf("got %+v", s)
	}
}

// Who is not in the list is reset, before the client is dialled.
func TestAccept(t *testing.T) {
	to := serve(t, echo)
	f := open(t, "tcp://127.0.0.1:0?from=192.168.0.0/16,10.0.0.5", to.String(), Config{})
	wantReset(t, f)
	if s := f.Stats(); s.Refused != 1 || s.Total != 0 {
		t.Errorf("got %+v", s)
	}
	c := dial(t, open(t, "tcp://127.0.0.1:0?from=127.0.0.1", to.String(), Config{}))
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// The client hears by the header who came, byte for byte, before anything else.
func TestProxyHeader(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		heard := make(chan []byte, 1)
		to := serve(t, func(c *net.TCPConn) {
			b, _ := io.ReadAll(c)
			heard <- b
		})
		f := open(t, "tcp://127.0.0.1:0?proxy="+version, to.String(), Config{})
		c := dial(t, f)
		_, _ = io.WriteString(c, "GET")
		_ = c.CloseWrite()
		here, there := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
		want := "PROXY TCP4 127.0.0.1 127.0.0.1 " + port(here) + " " + port(there) + "\r\nGET"
		if version == "2" {
			want = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01" +
				string([]byte{byte(here.Port() >> 8), byte(here.Port()), byte(there.Port() >> 8), byte(there.Port())}) + "GET"
		}
		if got := <-heard; string(got) != want {
			t.Errorf("version %s: got %q, want %q", version, got, want)
		}
	}
}

func port(a netip.AddrPort) string {
	_, p, _ := net.SplitHostPort(a.String())
	return p
}

func TestAppendProxy(t *testing.T) {
	v6, w6 := netip.MustParseAddrPort("[2001:db8::1]:258"), netip.MustParseAddrPort("[2001:db8::2]:80")
	for name, tt := range map[string]struct {
		version  int
		src, dst netip.AddrPort
		want     string
	}{
		"1 over IPv6": {1, v6, w6, "PROXY TCP6 2001:db8::1 2001:db8::2 258 80\r\n"},
		"1 unknown":   {1, netip.AddrPort{}, netip.AddrPort{}, "PROXY UNKNOWN\r\n"},
		"2 over IPv6": {2, v6, w6, proxySignature + "\x21\x21\x00\x24" + "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x02\x01\x02\x00\x50"},
		"2 unknown":   {2, netip.AddrPort{}, netip.AddrPort{}, proxySignature + "\x21\x00\x00\x00"},
	} {
		if got := string(appendProxy(nil, tt.version, tt.src, tt.dst)); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

// A unix socket is for its owner alone from the start, carries as tcp does, and is gone afterwards.
func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	f := open(t, "unix://"+path, serve(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		_, _ = c.Write(b)
	}).String(), Config{})
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v, want mode 0600", info, err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "question")
	_ = c.(*net.UnixConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "question" {
		t.Errorf("got %q, %v", b, err)
	}
	f.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// gvproxy bug: exposing a unix path deletes what is there. Here only a socket where nobody listens is replaced.
func TestGvproxyExposeOverFile(t *testing.T) {
	dir := t.TempDir()
	file, live, dead := filepath.Join(dir, "file"), filepath.Join(dir, "live"), filepath.Join(dir, "dead")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	d.SetUnlinkOnClose(false)
	_ = d.Close()
	c := Config{}
	c.setDefaults()
	for path, want := range map[string]string{file: "not a socket", live: "another process listens", dead: ""} {
		spec, err := Parse("unix://"+path, "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		f, err := Open(t.Context(), &c, spec, 0)
		switch {
		case err == nil:
			f.Close()
			fallthrough
		case want == "":
			if want != "" || err != nil {
				t.Errorf("%s: got %v, want %q", path, err, want)
			}
		case !strings.Contains(err.Error(), want):
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file has %q, %v", b, err)
	}
	if c, err := net.Dial("unix", live); err != nil {
		t.Error(err)
	} else {
		_ = c.Close()
	}
}

// gvproxy bug: ten destinations that hang stall all others. Here a forward whose client is silent holds up nobody, and is closed at once.
func TestGvproxyHungDials(t *testing.T) {
	hang := make(chan struct{})
	c := Config{Resolve: func(name string) (netip.Addr, error) {
		if name == "hung" {
			<-hang
		}
		return netip.MustParseAddr("127.0.0.1"), nil
	}}
	f := open(t, "tcp://127.0.0.1:0", "hung:1", c)
	for range 20 {
		dial(t, f)
	}
	eventually(t, "all of them wait", func() bool { return f.Stats().Live == 20 })
	to := serve(t, echo)
	other := dial(t, open(t, "tcp://127.0.0.1:0", "ok:"+port(to), c))
	_, _ = other.Write([]byte("x"))
	if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	close(hang)
	f.Close()
}

// vtunnel bug 1.4-9: a client that says nothing at all is waited for without end. Here there is a limit, and then a reset.
func TestVtunnelSilentClient(t *testing.T) {
	f := open(t, "tcp://127.0.0.1:0", "10.0.3.4:80", Config{Network: silent{}, DialTimeout: 100 * time.Millisecond})
	wantReset(t, f)
	eventually(t, "it is counted", func() bool { return f.Stats().Failed == 1 && f.Stats().Live == 0 })
}

// In a silent network nobody answers.
type silent struct{ Sockets }

func (silent) Dial(ctx context.Context, _ string, _ netip.Addr, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A connection comes from the address that was asked for.
func TestSource(t *testing.T) {
	heard := make(chan netip.Addr, 1)
	to := serve(t, func(c *net.TCPConn) { heard <- addrPort(c.RemoteAddr()).Addr() })
	dial(t, open(t, "tcp://127.0.0.1:0?source=127.0.0.9", to.String(), Config{}))
	if got := <-heard; got != netip.MustParseAddr("127.0.0.9") {
		t.Errorf("from %s", got)
	}
}

// When one direction has ended the other one has less time, if it is told so; before that, silence is none of its business.
func TestHalfOpen(t *testing.T) {
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			to := serve(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); <-t.Context().Done() })
			f := open(t, "tcp://127.0.0.1:0", to.String(), Config{Network: network, HalfOpen: 50 * time.Millisecond})
			whole, half := dial(t, f), dial(t, f)
			if err := half.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := half.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
			eventually(t, "one connection is left", func() bool { return f.Stats().Live == 1 })
			if _, err := whole.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
}

// A Network hears who has come.
func TestSourceOfDial(t *testing.T) {
	heard := make(chan netip.AddrPort, 1)
	to := serve(t, echo)
	for _, scheme := range []string{"tcp", "udp"} {
		f := open(t, scheme+"://127.0.0.1:0", to.String(), Config{Network: curious{heard: heard}})
		c, err := net.Dial(scheme, f.Bound().address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got.String() != c.LocalAddr().String() {
			t.Errorf("%s: got %s, want %s", scheme, got, c.LocalAddr())
		}
	}
}

type curious struct {
	Sockets
	heard chan netip.AddrPort
}

func (n curious) Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error) {
	n.heard <- Source(ctx)
	return n.Sockets.Dial(ctx, network, from, to)
}

// 0.0.0.0 is IPv4's alone: who publishes there has not asked for IPv6. Without an address it is both.
func TestFamily(t *testing.T) {
	to := serve(t, echo)
	for from, six := range map[string]bool{"tcp://0.0.0.0:0": false, "tcp://:0": true} {
		f := open(t, from, to.String(), Config{})
		for host, want := range map[string]bool{"127.0.0.1": true, "::1": six} {
			c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), f.Bound().Port).String())
			if (err == nil) != want {
				t.Errorf("%s by %s: %v", from, host, err)
			}
			if err == nil {
				_ = c.Close()
			}
		}
	}
}
