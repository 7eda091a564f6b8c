package penguin

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// followed starts follow, and returns what lines it has found.
func followed(t *testing.T, path string) <-chan string {
	t.Helper()
	lines := make(chan string, 1000)
	changes, err := watch(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = changes.Close() })
	background(t, func(ctx context.Context) error {
		return follow(ctx, changes, path, (&lab{log: new(transcript)}).logger(), func(line string) { lines <- line })
	})
	return lines
}

func want(t *testing.T, lines <-chan string, all ...string) {
	t.Helper()
	for _, line := range all {
		select {
		case got := <-lines:
			if got != line {
				t.Fatalf("got %q, want %q", got, line)
			}
		case <-time.After(patience):
			t.Fatalf("no line comes; want %q", line)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	(&lab{events: path}).publish(t, text)
}

// A line that comes in pieces, which the original takes for two errors, waits for its end. The file may come later, be truncated and be replaced.
func TestBugTornLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	lines := followed(t, path)
	write(t, path, "one\ntw")
	want(t, lines, "one")
	write(t, path, "o\r\n\nthree")
	want(t, lines, "two")
	write(t, path, "\n")
	want(t, lines, "three")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, path, "4\n") // less than there was
	want(t, lines, "4")
	other := path + ".new"
	write(t, other, "five\nsix\n")
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	want(t, lines, "five", "six")
	write(t, path, strings.Repeat("x", 3*maxLine)+"\nseven\n")
	want(t, lines, "seven")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "eight\n")
	want(t, lines, "eight")
}

// The three eras of columns; bad lines, and addresses that are taken, keep nothing else from being published.
func TestEvents(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	to := service(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) })
	var all []netip.AddrPort
	at := func() netip.AddrPort {
		all = append(all, freePort(t, "tcp"))
		return all[len(all)-1]
	}
	busy := service(t, "127.0.0.1:0", func(*net.TCPConn) {})
	b.publish(t, fmt.Sprintf("tcp,%s,%s\r\n", to, at())) // before the host is there
	b.host(t, HostConfig{Max: 4})
	first := all[0]
	b.publish(t, "nonsense\n"+fmt.Sprintf("tcp,%s,%s\n", to, busy)+fmt.Sprintf("tcp,%s,%s,127.0.0.1:0\n", to, at())+
		fmt.Sprintf("tcp,%s,%s\n", to, first)+ // again
		fmt.Sprintf("tcp,127.0.0.1:9,%s\n", first)+ // another service there
		fmt.Sprintf("tcp,%s,%s,127.0.0.1:0,\n", to, at()))
	for _, a := range all {
		b.await(t, "msg=published at="+a.String())
		if got, err := ask(t, a, nil); string(got) != "hello" || err != nil {
			t.Errorf("%s: got %q, %v", a, got, err)
		}
	}
	b.await(t, "Unable to parse line")
	b.await(t, "unable to bind external address "+busy+"/tcp")
	b.await(t, "unable to bind external address "+first.String()+"/tcp")
	if n := strings.Count(b.log.String(), "unable to bind"); n != 2 {
		t.Errorf("%d lines were refused:\n%s", n, b.log)
	}
	// TCP and UDP may have one port (bug 3.7.2), and the fifth is one too many.
	u := first
	b.publish(t, fmt.Sprintf("udp,%s,%s\ntcp,%s,%s\n", to, u, to, at()))
	b.await(t, "msg=published at="+u.String()+" proto=udp")
	b.await(t, "4 publications are there already")
}

// Who names no port gets one for each service, and is told which.
func TestPublishedAnywhere(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	b.host(t, HostConfig{})
	for _, text := range []string{"one", "two"} {
		to := service(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = c.Write([]byte(text)) })
		b.publish(t, strings.Repeat(fmt.Sprintf("tcp,%s,127.0.0.1:0\n", to), 2)) // twice, as when the file is written anew
		b.await(t, "guest="+to)
		line := regexp.MustCompile(`msg=published at=(\S+) proto=tcp guest=` + to).FindStringSubmatch(b.log.String())
		if line == nil {
			t.Fatalf("%s is not published:\n%s", to, b.log)
		}
		if got, err := ask(t, netip.MustParseAddrPort(line[1]), nil); string(got) != text || err != nil {
			t.Errorf("%s: got %q, %v", line[1], got, err)
		}
	}
	if n := strings.Count(b.log.String(), "msg=published"); n != 2 || strings.Contains(b.log.String(), "unable") {
		t.Errorf("%d are published, want 2:\n%s", n, b.log)
	}
}

// 0.0.0.0 is IPv4's alone, as with the original: who publishes there has not asked for IPv6.
func TestPublishedFamily(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	b.host(t, HostConfig{})
	to := service(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) })
	at := freePort(t, "tcp").Port()
	b.publish(t, fmt.Sprintf("tcp,%s,0.0.0.0:%d\nudp,%s,0.0.0.0:%[2]d\n", to, at, to))
	b.await(t, fmt.Sprintf("msg=published at=0.0.0.0:%d proto=udp", at))
	if got, err := ask(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at), nil); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	six := netip.AddrPortFrom(netip.IPv6Loopback(), at).String()
	if c, err := net.Dial("tcp", six); err == nil {
		_ = c.Close()
		t.Error("tcp is to be had by IPv6")
	}
	c, err := net.ListenPacket("udp6", six)
	if err != nil {
		t.Errorf("udp is to be had by IPv6: %v", err)
		return
	}
	_ = c.Close()
}

// Whoever may write where the file of events is could put something else there: a FIFO that nobody writes to, a directory, a device without end. It is told once, and
// the file is taken when it comes.
func TestEventsAreNoFile(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"fifo":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"device":    func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &lab{events: filepath.Join(t.TempDir(), "events"), log: new(transcript)}
			if err := plant(b.events); err != nil {
				t.Fatal(err)
			}
			changes, err := watch(b.events)
			if err != nil {
				t.Fatal(err)
			}
			defer changes.Close()
			lines := make(chan string, 1)
			stop := background(t, func(ctx context.Context) error {
				return follow(ctx, changes, b.events, b.logger(), func(line string) { lines <- line })
			})
			b.await(t, "it is no file")
			if err := os.Remove(b.events); err != nil {
				t.Fatal(err)
			}
			b.publish(t, "one\n")
			want(t, lines, "one")
			stop()
			if n := strings.Count(b.log.String(), "it is no file"); n != 1 {
				t.Errorf("it is told %d times:\n%s", n, b.log)
			}
		})
	}
}

// The end does not wait for a file to be read whole: who is told to stop is killed soon.
func TestEventsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	const all = 100_000
	write(t, path, strings.Repeat("line\n", all))
	changes, err := watch(path)
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Close()
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if err := follow(ctx, changes, path, (&lab{log: new(transcript)}).logger(), func(string) { n++; cancel() }); err != nil || n > all/10 {
		t.Errorf("%d lines of %d were read, %v", n, all, err)
	}
}
