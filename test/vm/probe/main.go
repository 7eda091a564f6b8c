// Command probe is the tests' traffic inside a machine, over vsock or TCP:
//
//	probe echo URL           serves one connection: sends back what comes, until the peer ends
//	probe check URL BYTES    connects, sends BYTES, and compares what comes back
//
// URL is vsock://cid:port (to listen: vsock://:port) or tcp://host:port. The exit status is 0 if all was
// as it should be. It shares no code with what is tested.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/mdlayher/vsock"
)

// patience is how long check waits for somebody to listen: the peer's machine may still be booting.
const patience = 60 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "echo":
		return echo(args[1])
	case len(args) == 3 && args[0] == "check":
		size, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		return check(args[1], size)
	}
	return errors.New("usage: probe echo URL | probe check URL BYTES")
}

// A halfCloser can end its own direction and go on reading.
type halfCloser interface{ CloseWrite() error }

func echo(where string) error {
	l, err := listen(where)
	if err != nil {
		return err
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.Copy(conn, conn); err != nil {
		return err
	}
	if err := conn.(halfCloser).CloseWrite(); err != nil {
		return err
	}
	// Until the peer has closed too: it has everything then.
	_, err = io.Copy(io.Discard, conn)
	return err
}

func check(where string, size int64) error {
	conn, err := dialPatiently(where)
	if err != nil {
		return err
	}
	defer conn.Close()
	start := time.Now()
	sent := sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(conn, sent), rand.NewChaCha8([32]byte{1}), size)
		done <- errors.Join(err, conn.(halfCloser).CloseWrite())
	}()
	back := sha256.New()
	n, err := io.Copy(back, conn)
	if err := errors.Join(err, <-done); err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", n, size, err)
	}
	if n != size || string(back.Sum(nil)) != string(sent.Sum(nil)) {
		return fmt.Errorf("sent %d bytes with SHA-256 %x, %d came back with %x", size, sent.Sum(nil), n, back.Sum(nil))
	}
	took := time.Since(start)
	fmt.Printf("probe: %s: %d bytes there and back in %v, %.1f MB/s, SHA-256 %.6x\n",
		where, n, took.Round(time.Millisecond), float64(n)/1e6/took.Seconds(), back.Sum(nil))
	return nil
}

func dialPatiently(where string) (net.Conn, error) {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		conn, err := dial(where)
		if err == nil || time.Now().After(end) {
			return conn, err
		}
	}
}

func listen(where string) (net.Listener, error) {
	u, cid, port, err := parse(where)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "vsock" {
		return vsock.ListenContextID(cid, port, nil)
	}
	return net.Listen("tcp", u.Host)
}

func dial(where string) (net.Conn, error) {
	u, cid, port, err := parse(where)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "vsock" {
		return vsock.Dial(cid, port, nil)
	}
	return net.Dial("tcp", u.Host)
}

// parse reads a URL; a vsock URL without a context ID means any of this machine.
func parse(where string) (u *url.URL, cid, port uint32, err error) {
	if u, err = url.Parse(where); err != nil || u.Scheme != "vsock" {
		return u, 0, 0, err
	}
	c, p := uint64(math.MaxUint32), uint64(0)
	if u.Hostname() != "" {
		c, err = strconv.ParseUint(u.Hostname(), 10, 32)
	}
	if err == nil {
		p, err = strconv.ParseUint(u.Port(), 10, 32)
	}
	return u, uint32(c), uint32(p), err
}
