package l2port

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/l2port/ether"
	"ferry/internal/proto"
)

var (
	guest   = ether.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	gateway = netip.MustParseAddr("10.0.0.1")
	leased  = netip.MustParseAddr("10.0.254.254")
	config  = ether.Config{Gateway: gateway, Pool: netip.MustParsePrefix("10.0.0.0/16"), MTU: 9000}
)

// whoHas is a question for the gateway, and answer the beginning of what it gets.
var (
	whoHas = frame(0x0806, append(append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, guest[:]...), 10, 0, 254, 254, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1))
	isAt   = append(append(guest[:len(guest):len(guest)], ether.Gateway[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
)

func frame(kind uint16, payload []byte) []byte {
	b := append(ether.Gateway[:len(ether.Gateway):len(ether.Gateway)], guest[:]...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// packetOf is an IPv4 packet of n bytes with a number in it.
func packetOf(n, number int) []byte {
	b := make([]byte, n)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:], leased.AsSlice())
	copy(b[16:], gateway.AsSlice())
	binary.BigEndian.PutUint32(b[24:], uint32(number))
	return b
}

// wire makes what is written to a socket of a frame.
func wire(f Framing, frames ...[]byte) (b []byte) {
	for _, one := range frames {
		at := len(b)
		b = append(f.begin(b), one...)
		f.finish(b[at:])
	}
	return b
}

// A machine is the other end of a cable.
type machine struct {
	net.Conn
	framing Framing
}

// expect reads a frame.
func (m *machine) expect(t testing.TB) []byte {
	t.Helper()
	_ = m.SetReadDeadline(time.Now().Add(10 * time.Second))
	if m.framing == Datagrams {
		b := make([]byte, 65536)
		n, err := m.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}
	head := make([]byte, m.framing.head())
	if _, err := io.ReadFull(m, head); err != nil {
		t.Fatal(err)
	}
	n := int(binary.LittleEndian.Uint16(head))
	if m.framing == Lengths32 {
		n = int(binary.BigEndian.Uint32(head))
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(m, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// send writes a frame.
func (m *machine) send(t testing.TB, frames ...[]byte) {
	t.Helper()
	for _, f := range frames {
		if m.framing != Datagrams {
			f = wire(m.framing, f)
		}
		if _, err := m.Write(f); err != nil {
			t.Fatal(err)
		}
	}
}

// listenHere opens an endpoint, in a directory of the test.
func listenHere(t testing.TB, scheme string) (*Listener, func() *machine) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	url := scheme + "://" + path
	if scheme == "qemu+tcp" {
		url = scheme + "://127.0.0.1:0"
	}
	e, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	clients := 0
	return l, func() *machine {
		t.Helper()
		clients++
		var d net.Dialer
		if e.network == "unixgram" {
			d.LocalAddr = &net.UnixAddr{Name: path + strings.Repeat("c", clients), Net: e.network}
		}
		conn, err := d.DialContext(t.Context(), e.network, l.address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return &machine{conn, e.Framing}
	}
}

// answering serves a link as a gateway does, which echoes packets: until the link ends.
func answering(l *Link) error {
	defer l.Release()
	for {
		buf, i, end, err := l.Fill()
		if err != nil {
			return err
		}
		for i < end {
			kind, n, err := (proto.Framer{}).Next(buf[i:end])
			if err != nil || n == 0 {
				return errors.Join(errors.New("no item"), err)
			}
			item := bytes.Clone(buf[i : i+n])
			if kind == proto.KindRequest {
				item = proto.AppendReply(nil, item, proto.Reply{Addr: leased})
			}
			took, err := l.TryWrite(item)
			if err == nil {
				err = l.Write(item[took:], nil)
			}
			if err != nil {
				return err
			}
			l.Consume(n)
			i += n
		}
	}
}

// Machines of every kind are plugged in, two at once, and have their frames answered.
func TestMachines(t *testing.T) {
	for _, scheme := range []string{"qemu+unix", "qemu+tcp", "bess+unix", "vfkit+unix"} {
		t.Run(scheme, func(t *testing.T) {
			l, dial := listenHere(t, scheme)
			ended := make(chan error, 2)
			var links []*Link
			for range 2 {
				m := dial()
				if scheme == "vfkit+unix" {
					m.send(t, []byte(magic))
				}
				m.send(t, whoHas)
				a, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				link := a.Link(config)
				links = append(links, link)
				go func() { ended <- answering(link) }()
				if got := m.expect(t); !bytes.HasPrefix(got, isAt) {
					t.Fatalf("got %x, want %x", got, isAt)
				}
				for i := range 100 {
					m.send(t, frame(0x0800, packetOf(28+i*14, i)))
				}
				for i := range 100 {
					if got := m.expect(t); !bytes.Equal(got[14:], packetOf(28+i*14, i)) {
						t.Fatalf("packet %d came back as %.60x", i, got)
					}
				}
			}
			for _, link := range links {
				if link.Max() != 1500 || link.Received() == 0 || link.Sent() == 0 || link.RemoteAddr().String() == "" {
					t.Errorf("max %d, received %d, sent %d, from %q", link.Max(), link.Received(), link.Sent(), link.RemoteAddr())
				}
				if err := link.Close(); err != nil {
					t.Error(err)
				}
				<-ended
			}
		})
	}
}

// A machine that is unplugged ends its link, and none else.
func TestUnplugged(t *testing.T) {
	l, dial := listenHere(t, "qemu+unix")
	m := dial()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = m.Close()
	if err := answering(a.Link(config)); err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
}

// Bugs of gvproxy that must not be here.

// gvproxy v0.8.9: a frame below 12 bytes panics with a lock held, and the whole network stands still for good.
func TestRuntFrameFreezesTheNetwork(t *testing.T) {
	for _, scheme := range []string{"qemu+unix", "bess+unix", "vfkit+unix"} {
		t.Run(scheme, func(t *testing.T) {
			l, dial := listenHere(t, scheme)
			m := dial()
			for n := 1; n < ether.HeaderLen; n++ {
				m.send(t, whoHas[:n])
			}
			if m.framing == Lengths32 {
				m.send(t, nil)
			}
			m.send(t, whoHas)
			a, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			link := a.Link(config)
			go func() { _ = answering(link) }()
			defer link.Close()
			if got := m.expect(t); !bytes.HasPrefix(got, isAt) {
				t.Errorf("got %x", got)
			}
			drops := map[string]uint64{}
			if link.AddDrops(drops); drops["l2_runt"] < 13 {
				t.Errorf("counted %v", drops)
			}
		})
	}
}

// gvproxy v0.8.9 allocates up to 4 GiB for a length that somebody claims.
func TestClaimedLengthIsNotAllocated(t *testing.T) {
	for _, claimed := range []uint32{MaxFrame + 1, 1 << 31, 0xffffffff} {
		l, dial := listenHere(t, "qemu+unix")
		m := dial()
		if _, err := m.Write(append(wire(Lengths32, whoHas), binary.BigEndian.AppendUint32(nil, claimed)...)); err != nil {
			t.Fatal(err)
		}
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		link := a.Link(config)
		if err := answering(link); !errors.Is(err, ErrFrame) {
			t.Errorf("%d: got %v", claimed, err)
		}
		drops := map[string]uint64{}
		if link.AddDrops(drops); drops["l2_oversized"] != 1 {
			t.Errorf("counted %v", drops)
		}
		if got := m.expect(t); !bytes.HasPrefix(got, isAt) {
			t.Errorf("what came before it: got %x", got)
		}
	}
}

// gvproxy takes one connection of QEMU for all its life: TestMachines has two, and this one comes back.
func TestMachineComesBack(t *testing.T) {
	for _, scheme := range []string{"qemu+unix", "vfkit+unix"} {
		t.Run(scheme, func(t *testing.T) {
			l, dial := listenHere(t, scheme)
			m := dial()
			for range 3 {
				if scheme == "vfkit+unix" { // started anew at the same path
					m.send(t, []byte(magic))
				}
				m.send(t, whoHas)
				a, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				link := a.Link(config)
				go func() { _ = answering(link) }()
				defer link.Close()
				if got := m.expect(t); !bytes.HasPrefix(got, isAt) {
					t.Fatalf("got %x", got)
				}
				if scheme == "qemu+unix" {
					_ = m.Close()
					m = dial()
				}
			}
		})
	}
}

// A machine that is halted, with all that it is sent waiting for it, keeps nothing from the others of its listener.
func TestHaltedMachineStopsNobodyElse(t *testing.T) {
	for _, scheme := range []string{"qemu+unix", "bess+unix", "vfkit+unix"} {
		t.Run(scheme, func(t *testing.T) {
			l, dial := listenHere(t, scheme)
			accept := func(m *machine) *Link {
				t.Helper()
				m.send(t, whoHas)
				a, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				return a.Link(config)
			}
			halted := accept(dial())
			writing := make(chan error, 1)
			full := make(chan struct{}, 1)
			go func() {
				many := bytes.Repeat(packetOf(1500, 1), 1000)
				for range 20 {
					if err := halted.Write(many, func() {
						select {
						case full <- struct{}{}:
						default:
						}
					}); err != nil {
						writing <- err
						return
					}
				}
				drops := map[string]uint64{}
				if halted.AddDrops(drops); drops["l2_unread"] < 10_000 {
					writing <- fmt.Errorf("written in spite of all, and dropped %v", drops)
				}
				writing <- net.ErrClosed
			}()
			for quiet := false; !quiet; { // until no more is taken
				select {
				case <-full:
				case <-time.After(200 * time.Millisecond):
					quiet = true
				}
			}
			m := dial()
			link := accept(m)
			go func() { _ = answering(link) }()
			defer link.Close()
			if got := m.expect(t); !bytes.HasPrefix(got, isAt) {
				t.Errorf("got %x", got)
			}
			if err := halted.Close(); err != nil {
				t.Error(err)
			}
			if err := <-writing; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
	}
}

// A machine that asks and does not read does not make the gateway keep all the answers.
func TestAnswersAreBounded(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	l := NewLink(b, Lengths32, Addr{}, config)
	many := bytes.Repeat(wire(Lengths32, whoHas), 2000)
	if n := l.items(many); n != proto.ControlLen {
		t.Errorf("%d bytes of items for one call", n)
	}
	if len(l.answers) > maxAnswers+100 {
		t.Errorf("%d bytes of answers wait", len(l.answers))
	}
	drops := map[string]uint64{}
	if l.AddDrops(drops); drops["l2_unread"] == 0 {
		t.Error("nothing was counted")
	}
}

// A socket that a dead process left is replaced; one in use, a file, and a socket of another kind are left alone.
func TestSocketsThatExist(t *testing.T) {
	for _, scheme := range []string{"qemu+unix", "bess+unix", "vfkit+unix"} {
		t.Run(scheme, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			e, err := Parse(scheme + "://" + path)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Listen(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("got mode %v, %v", info.Mode(), err)
			}
			if _, err := Listen(t.Context(), e); err == nil || !strings.Contains(err.Error(), "another process") {
				t.Errorf("in use: got %v", err)
			}
			for _, other := range schemes {
				if other.network == e.network || !strings.HasPrefix(other.network, "unix") {
					continue
				}
				if _, err := Listen(t.Context(), Endpoint{network: other.network, address: path}); err == nil {
					t.Errorf("in use by a socket of another kind, %s: replaced", other.network)
				}
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("the socket is still there")
			}
			leaveDead(t, e)
			if l, err = Listen(t.Context(), e); err != nil {
				t.Fatalf("a dead one: %v", err)
			}
			_ = l.Close()
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Listen(t.Context(), e); err == nil {
				t.Error("a file was replaced")
			}
		})
	}
}

// leaveDead leaves a socket as a process does that was killed.
func leaveDead(t *testing.T, e Endpoint) {
	t.Helper()
	var err error
	if e.network == "unixgram" {
		var c *net.UnixConn
		if c, err = net.ListenUnixgram(e.network, &net.UnixAddr{Name: e.address, Net: e.network}); err == nil {
			err = c.Close()
		}
	} else {
		var l *net.UnixListener
		if l, err = net.ListenUnix(e.network, &net.UnixAddr{Name: e.address, Net: e.network}); err == nil {
			l.SetUnlinkOnClose(false)
			err = l.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestParse(t *testing.T) {
	for url, want := range map[string]string{
		"qemu+unix:///run/q.sock":                    "",
		"bess+unix:///run/b.sock":                    "",
		"vfkit+unix:///run/v.sock":                   "",
		"qemu+tcp://127.0.0.1:1234":                  "",
		"qemu+tcp://[::1]:1234":                      "",
		"qemu+tcp://0.0.0.0:1234?from=anywhere":      "",
		"stdio:":                                     "",
		"qemu+tcp://0.0.0.0:1234":                    "no authentication",
		"qemu+tcp://localhost:1234":                  "an address and a port",
		"qemu+tcp://127.0.0.1":                       "an address and a port",
		"qemu+unix://run/q.sock":                     "absolute path",
		"qemu+unix:///run/":                          "absolute path",
		"qemu+unix:///run/q.sock?from=anywhere":      "only qemu+tcp",
		"stdio:///x":                                 "nothing behind",
		"unix:///run/q.sock":                         "qemu+unix:///path",
		"qemu+tcp://127.0.0.1:1234?from=anywhere&x=": "only qemu+tcp",
	} {
		e, err := Parse(url)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", url, err, want)
		case want == "" && e.String() != strings.TrimSuffix(url, "?from=anywhere"):
			t.Errorf("%s: written as %s", url, e)
		}
	}
}

// However bytes arrive, the items are the same, and whole.
func FuzzItems(f *testing.F) {
	f.Add(wire(Lengths32, whoHas, frame(0x0800, packetOf(28, 1)), nil), uint8(0), uint16(7))
	f.Add(wire(Lengths16, whoHas, frame(0x0800, packetOf(1400, 1)), nil), uint8(1), uint16(100))
	f.Add([]byte{0, 1, 0, 14}, uint8(0), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, framing uint8, part uint16) {
		whole := itemsOf(t, bytes.Clone(b), Framing(framing%2), len(b))
		if parts := itemsOf(t, bytes.Clone(b), Framing(framing%2), int(part)+1); !bytes.Equal(parts, whole) {
			t.Errorf("in one part %x, in parts of %d %x", whole, part, parts)
		}
	})
}

// itemsOf returns the items of b without keepalives, which say no more than that there are answers.
func itemsOf(t *testing.T, b []byte, f Framing, part int) (all []byte) {
	l := NewLink(new(net.UnixConn), f, Addr{}, config)
	for have := 0; have < len(b) && l.bad == nil; {
		have = min(have+part, len(b))
		l.taken = 0
		n := l.items(b[:have])
		for at := 0; at < n; {
			kind, size, err := (proto.Framer{}).Next(b[at:n])
			if err != nil || size == 0 {
				t.Fatalf("not whole: %x", b[at:n])
			}
			if kind != proto.KindKeepalive {
				all = append(all, b[at:at+size]...)
			}
			at += size
		}
		b, have = b[l.taken:], have-l.taken
	}
	return all
}

// BenchmarkLink is a machine whose packets the gateway sends back.
func BenchmarkLink(b *testing.B) {
	l, dial := listenHere(b, "qemu+unix")
	m := dial()
	a, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	link := a.Link(config)
	go func() { _ = answering(link) }()
	defer link.Close()
	f := wire(Lengths32, frame(0x0800, packetOf(1500, 1)))
	b.SetBytes(1500)
	b.ReportAllocs()
	go func() {
		many := bytes.Repeat(f, 20)
		for range b.N/20 + 1 {
			if _, err := m.Write(many); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 1<<16)
	for n := 0; n < b.N*len(f); {
		k, err := m.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		n += k
	}
}

// A machine that was killed says nothing, and has another path when it is started anew (vfkit has its number in it): its line ends then, and is not there for good
// with the address that it had.
func TestKilledMachineEnds(t *testing.T) {
	l, dial := listenHere(t, "vfkit+unix")
	accept := func() (m *machine, ended chan error) {
		m, ended = dial(), make(chan error, 1)
		m.send(t, whoHas)
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		link := a.Link(config)
		t.Cleanup(func() { _ = link.Close() })
		go func() { ended <- answering(link) }()
		m.expect(t)
		return m, ended
	}
	killed, ended := accept()
	_, sleeps := accept()
	_ = killed.Close()
	_, fresh := accept()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it is there still")
	}
	select {
	case <-sleeps:
		t.Error("who only says nothing was ended, too")
	case <-fresh:
		t.Error("so was the new one")
	default:
	}
}
