package netadmin

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ferry/internal/hostnet"
)

// A device that publishes services, and no more, listens at its address in the tunnel alone.
func TestListenInside(t *testing.T) {
	dir := t.TempDir()
	c := begin(t, Rules{Forward: true, Inside: true, Sockets: []string{dir}})
	listen := func(network, address string) error {
		f, err := c.ListenSocket(network, address)
		if err == nil {
			_ = f.Close()
		}
		return err
	}
	if err := listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("without an address it listens on loopback")
	}
	open(t, c)
	addr := netip.MustParsePrefix("10.7.0.5/16")
	if err := c.Apply(hostnet.State{Addr: addr, MTU: 1300, Outer: hostnet.Outer{Table: 77}}); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "udp"} {
		if err := listen(network, "10.7.0.5:0"); err != nil {
			t.Errorf("%s: %v", network, err)
		}
		for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", ":0", "[::]:0"} {
			if err := listen(network, address); err == nil {
				t.Errorf("nothing keeps it from listening on %s %s", network, address)
			}
		}
	}
	if err := listen("unix", filepath.Join(dir, "x.sock")); err == nil {
		t.Error("nothing keeps it from listening on a unix socket")
	}
}

// Names of programs, and files that everybody may read, are for whom the first message says.
func TestPublish(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s")) // any socket has an inode
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	inode := uint32(info.Sys().(*syscall.Stat_t).Ino)
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 4711); err != nil { // it belongs to anybody
		t.Fatal(err)
	}
	file := filepath.Join(dir, "endpoints.txt")

	c := begin(t, Rules{Names: true, Open: []string{file}})
	if names, err := c.Names([]uint32{inode}); err != nil || names[inode] != strings.TrimSpace(string(comm)) {
		t.Errorf("got %v, %v, want %s", names, err, comm)
	}
	if err := c.Replace(file, []byte("tcp")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 || info.Size() != 3 {
		t.Errorf("got %v, %v", info, err)
	}
	if err := c.Replace(filepath.Join(dir, "other"), nil); err == nil {
		t.Error("nothing keeps it from writing another file")
	}
	none := begin(t, Rules{})
	if names, err := none.Names([]uint32{inode}); err == nil || len(names) > 0 {
		t.Errorf("got %v, and names were not to be told", names)
	}
}
