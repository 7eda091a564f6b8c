package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/config"
)

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{errors.New("port taken"), 1},
		{&config.UsageError{Err: errors.New("unknown flag")}, 2},
		{fmt.Errorf("vpnsrv: %w", &config.UsageError{Err: errors.New("unknown flag")}), 2},
	} {
		if got := status(test.err); got != test.want {
			t.Errorf("%v: got %d, want %d", test.err, got, test.want)
		}
	}
}

func TestNoTUN(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string // part of the message
	}{
		{&fs.PathError{Op: "open", Path: tunPath, Err: unix.ENOENT}, "/dev/net/tun does not exist: load the module with 'modprobe tun' (in a container: pass --device /dev/net/tun)"},
		{&fs.PathError{Op: "open", Path: tunPath, Err: unix.ENODEV}, "modprobe tun"},
		{&fs.PathError{Op: "open", Path: tunPath, Err: unix.EPERM}, "--device /dev/net/tun"},
		{&fs.PathError{Op: "open", Path: tunPath, Err: unix.EMFILE}, "too many open files"},
	} {
		if got := noTUN(test.err).Error(); !strings.Contains(got, test.want) {
			t.Errorf("%v: got %q, want %q in it", test.err, got, test.want)
		}
	}
}

func TestRevision(t *testing.T) {
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef"}
	for _, test := range []struct {
		settings []debug.BuildSetting
		want     string
	}{
		{nil, ""},
		{[]debug.BuildSetting{commit, {Key: "vcs.modified", Value: "false"}}, "commit 0123456789ab, "},
		{[]debug.BuildSetting{commit, {Key: "vcs.modified", Value: "true"}}, "commit 0123456789ab with changes, "},
	} {
		if got := revision(test.settings); got != test.want {
			t.Errorf("%v: got %q, want %q", test.settings, got, test.want)
		}
	}
}

// A reason that a peer made up must not become a state of its own.
func TestNotifyKeepsStatesApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	Notify(Ready, "STATUS=lost: bye\nMAINPID=1")
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 256)
	n, err := conn.Read(b)
	if got, want := string(b[:n]), "READY=1\nSTATUS=lost: bye; MAINPID=1"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
