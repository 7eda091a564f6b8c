package netns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/test/lab"
)

// vpnsrv with its rights given up serves clients of vtunnel beside its own, whatever its exit is:
//
//	gw   application --> vpncli vtunnel == unix socket ==> vpnsrv --> lan   198.51.100.2 destination
func TestVtunnel(t *testing.T) {
	for _, exit := range []string{"kernel", "user"} {
		t.Run(exit, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "s")
			n := newGateway(t, "--exit", exit, "--vtunnel-listen", "unix://"+path+"?auth=secret&accept="+lanHost+"/32")
			to := greeter(t, n.lan)
			tunnel := func(flags ...string) string {
				p := start(t, n.gw, append([]string{filepath.Join(bin, "vpncli"), "vtunnel", "--socket", "unix://" + path, "-d", fmt.Sprint(to)}, flags...)...)
				line := await(t, p, "listening on tcp ", 0)
				return line[strings.LastIndex(line, " ")+1:]
			}
			for _, test := range []struct {
				name  string
				flags []string
				want  string
			}{
				{"tunnel", []string{"-a", "secret", "-r", lanHost}, "hello"},
				{"not accepted", []string{"-a", "secret"}, ""},
				{"auth string", []string{"-r", lanHost}, ""},
			} {
				if got := greeting(t, n.gw, tunnel(test.flags...)); got != test.want {
					t.Errorf("%s: got %q, want %q", test.name, got, test.want)
				}
			}
			for _, count := range []string{"made 1", "address 1", "auth 1", "unix://" + path + " serves vtunnel"} {
				if status := n.vpnsrv("status"); !strings.Contains(status, count) {
					t.Errorf("not counted: %s\n%s", count, status)
				}
			}
			stop(t, n.srv)
			// Without a process that has rights the socket stays, dead, and is replaced by the next start.
			if _, err := os.Lstat(path); exit == "kernel" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is there still: %v", err)
			}
			n.startGateway(n.args...)
		})
	}
}

// greeter starts a server that says hello.
func greeter(t *testing.T, ns *lab.Namespace) (port int) {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).Port
}

// greeting returns what a server says; of one that resets the connection, nothing.
func greeting(t *testing.T, ns *lab.Namespace, addr string) string {
	t.Helper()
	var conn net.Conn
	err := ns.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", addr, patience)
		return err
	})
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	got, _ := io.ReadAll(conn)
	return string(got)
}
