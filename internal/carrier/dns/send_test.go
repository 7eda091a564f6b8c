package dns

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/polling"
)

// A narrow socket has room for a few messages, and takes the next ones as they are read.
func narrow(t *testing.T) (from, to *net.UnixConn) {
	t.Helper()
	at := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixgram"}
	to, err := net.ListenUnixgram("unixgram", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = to.Close() })
	if from, err = net.DialUnix("unixgram", nil, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = from.Close() })
	return from, to
}

// Who does not wait is told what there was no room for, and nothing of that counts as sent; who waits goes on when there is room.
func TestNoRoom(t *testing.T) {
	const many = 10000
	lens := make([]int, many)
	for name, by := range map[string]func(t *testing.T, p *post) func(wait bool) (int, error){
		"questions": func(t *testing.T, p *post) func(bool) (int, error) {
			a := testAsker(t)
			a.post = p
			sent := 0
			return func(wait bool) (int, error) {
				n, err := a.Ask(1, nil, lens, wait)
				sent += n
				a.mu.Lock()
				defer a.mu.Unlock()
				open := 0
				for i := range a.pending {
					if a.pending[i].open {
						open++
					}
				}
				if open != min(sent, under) {
					t.Errorf("%d questions are waited for, and %d were sent", open, sent)
				}
				return n, err
			}
		},
		"answers": func(t *testing.T, p *post) func(bool) (int, error) {
			g := testGate(t)
			g.post = p
			replies := make([]polling.Reply[back], many) // to where the socket is connected
			return func(wait bool) (int, error) { return g.Answer(replies, nil, lens, wait) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := narrow(t)
			p, err := newPost(from, false)
			if err != nil {
				t.Fatal(err)
			}
			send := by(t, p)
			n, err := send(false)
			if n == 0 || n == many || err != nil {
				t.Fatalf("%d of %d were taken, %v", n, many, err)
			}
			if again, err := send(false); again != 0 || err != nil {
				t.Errorf("%d more were taken, %v", again, err)
			}
			lens = lens[:100]
			defer func() { lens = lens[:many] }()
			done := make(chan int, 1)
			go func() { // ends when all is read
				n, _ := send(true)
				done <- n
			}()
			_ = to.SetReadDeadline(time.Now().Add(20 * time.Second))
			for i := range n + 100 {
				if _, err := to.Read(make([]byte, maxMessage)); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			if n := <-done; n != 100 {
				t.Errorf("%d were taken of who waits", n)
			}
		})
	}
}

// testGate returns a gate on loopback.
func testGate(t *testing.T) *gate {
	t.Helper()
	udp, tcp, err := bind(t.Context(), netip.MustParseAddr("127.0.0.1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGate(newZone("t.example.org"), udp, tcp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// testAsker returns one whose resolver is a socket of nobody.
func testAsker(t *testing.T) *asker {
	t.Helper()
	nobody, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nobody.Close() })
	r := &resolver{at: nobody.LocalAddr().(*net.UDPAddr).AddrPort(), z: newZone("t.example.org"), o: carrier.Opener(nil)}
	a, err := newAsker(t.Context(), r, 1, manner{takes: maxDown})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}
