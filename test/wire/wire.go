// Package wire is a bad Ethernet cable between two network namespaces, for kernels without netem:
//
//	namespace a                                                          namespace b
//	  eth0 = TAP ---read---> mtu, drop, loss, ... rate, delay ---write---> TAP = eth0
//	             <---write-- the same, with faults of its own  <--read----
//
// Each direction is a goroutine with a line (line.go, which decides and does no I/O): it reads what is there, up to
// batch frames, writes what is due, and sleeps until either comes. A frame is read into the memory in which it waits and
// is written from there: none is copied but a doubled one, and nothing is allocated.
//
// TAPs are opened without offload, so the kernel gives frames as they would be on a cable: cut into segments, with their
// checksums. Faults are changed while the cable is in use (faults.go has the words), and unplugging it takes the carrier
// from both ends, as the kernel would see it.
//
// Limits: frames of 2 KiB, 16 MiB under way in each direction, which is 1 Gbit/s at 100 ms; times are met within about
// 0.1 ms on an idle machine. Measured on two cores at 50 ms round trip (TestThroughput): 1.4 Gbit/s of TCP take a third of
// a core, and 20 Mbit/s 6 % of one. The same frames with the same seed have the same fate.
package wire

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// batch is how many frames are read before those that are due are written.
const batch = 64

// An End is where a wire comes out.
type End struct {
	In   func(func() error) error // calls a function on a thread in the namespace, as lab.Namespace.Do does
	Name string                   // of the interface that is made there
}

// Stats counts frames of one direction.
type Stats struct {
	Sent, Delivered             uint64
	Lost, Dropped, Queue, Large uint64 // did not come through: by chance, on demand, no room, above the MTU
	Cut, Down                   uint64 // unplugged; the interface at the other end was down
	Doubled, Reordered, Damaged uint64
}

// A Wire is a cable. Its interfaces vanish when it is closed.
type Wire struct {
	taps    [2]*tap
	halves  [2]*half
	work    sync.WaitGroup
	closing sync.Once

	mu      sync.Mutex
	faults  [2]Faults // from a to b, from b to a
	plugged bool
}

// New makes a cable from a to b, and the interfaces at its ends. set is what Set takes.
func New(a, b End, seed uint64, set string) (_ *Wire, err error) {
	w := &Wire{plugged: true}
	for i, e := range []End{a, b} {
		if w.taps[i], err = openTAP(e); err != nil {
			w.release()
			return nil, fmt.Errorf("wire: interface %s: %w", e.Name, err)
		}
	}
	for i := range w.halves {
		if w.halves[i], err = newHalf(w.taps[i].fd, w.taps[1-i].fd, newLine(seed+uint64(i))); err != nil {
			w.release()
			return nil, fmt.Errorf("wire: %w", err)
		}
	}
	if err := w.Set(set); err != nil {
		w.release()
		return nil, err
	}
	for _, h := range w.halves {
		w.work.Go(h.run) // ends with stop, or when an interface was taken away
	}
	return w, nil
}

// Set changes the faults: commands with commas between them, as "delay 25ms, loss 1%". One that begins with > is for the
// direction from a to b alone, one with < for the other. Frames that are sent after it has returned meet the new faults.
func (w *Wire) Set(commands string) error {
	w.mu.Lock()
	faults, plugged := w.faults, w.plugged
	for command := range strings.SplitSeq(commands, ",") {
		switch command = strings.TrimSpace(command); command {
		case "":
		case "plug", "unplug":
			plugged = command == "plug"
		default:
			if err := setBoth(&faults, command); err != nil {
				w.mu.Unlock()
				return fmt.Errorf("wire: %w", err)
			}
		}
	}
	w.faults, w.plugged = faults, plugged
	w.mu.Unlock()

	var err error
	for i, h := range w.halves {
		err = errors.Join(err, w.taps[i].setCarrier(plugged))
		h.change(faults[i], plugged)
	}
	return err
}

func setBoth(faults *[2]Faults, command string) error {
	which := faults[:]
	if rest, ok := strings.CutPrefix(command, ">"); ok {
		which, command = faults[:1], rest
	} else if rest, ok := strings.CutPrefix(command, "<"); ok {
		which, command = faults[1:], rest
	}
	for i := range which {
		if err := which[i].Set(command); err != nil {
			return err
		}
	}
	return nil
}

// Stats returns what has happened from a to b, and from b to a.
func (w *Wire) Stats() (there, back Stats) { return w.halves[0].counted(), w.halves[1].counted() }

// Close removes the cable and the interfaces at its ends.
func (w *Wire) Close() error {
	w.closing.Do(func() {
		for _, h := range w.halves {
			h.stop()
		}
		w.work.Wait()
		w.release()
	})
	return nil
}

func (w *Wire) release() {
	for _, t := range w.taps {
		if t != nil {
			_ = unix.Close(t.fd)
		}
	}
	for _, h := range w.halves {
		if h != nil {
			_ = unix.Close(h.wake)
		}
	}
}

// A half is one direction: what is read from in goes to out.
type half struct {
	in, out int
	wake    int // eventfd: changed or stopping
	line    *line
	began   time.Time
	poll    [2]unix.PollFd
	timeout unix.Timespec

	stopping atomic.Bool
	changed  atomic.Bool // faults and plugged are new: looked at before each frame

	mu      sync.Mutex
	faults  Faults
	plugged bool
	stats   Stats
}

func newHalf(in, out int, l *line) (*half, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &half{in: in, out: out, wake: wake, line: l, began: time.Now(), plugged: true}, nil
}

// change tells the goroutine of new faults. Frames that come from now on meet them.
func (h *half) change(f Faults, plugged bool) {
	h.mu.Lock()
	h.faults, h.plugged = f, plugged
	h.mu.Unlock()
	h.changed.Store(true)
	h.alert()
}

func (h *half) stop() {
	h.stopping.Store(true)
	h.alert()
}

func (h *half) alert() { _, _ = unix.Write(h.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (h *half) counted() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// run carries frames until stop.
func (h *half) run() {
	for !h.stopping.Load() {
		n, err := h.receive()
		h.deliver()
		h.publish()
		if err != nil || n < batch && !h.sleep() {
			return // an interface was taken away: nothing can come any more
		}
	}
}

// obey takes what change has left.
func (h *half) obey() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.faults = h.faults
	if !h.plugged && h.line.plugged {
		h.line.cut()
	}
	h.line.plugged = h.plugged
}

// publish leaves the counters for counted.
func (h *half) publish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats = h.line.stats
}

func (h *half) now() time.Duration { return time.Since(h.began) }

// deliver writes the frames that are due.
func (h *half) deliver() {
	if h.changed.Swap(false) {
		h.obey()
	}
	for now := h.now(); ; h.line.delivered() {
		frame := h.line.due(now)
		if frame == nil {
			return
		}
		if _, err := unix.Write(h.out, frame); err != nil {
			h.line.stats.Down++
			h.line.stats.Delivered--
		}
	}
}

// receive reads the frames that are there. An error is for good.
func (h *half) receive() (n int, err error) {
	for n < batch {
		size, err := unix.Read(h.in, h.line.room())
		switch err {
		case nil:
			if h.changed.Swap(false) {
				h.obey()
			}
			h.line.take(h.now(), size)
			n++
		case unix.EINTR:
		case unix.EAGAIN:
			return n, nil
		default:
			return n, os.NewSyscallError("read", err)
		}
	}
	return n, nil
}

// sleep waits until a frame has come or is due, or alert was called, or the interface is gone, which receive is told. It
// returns false when there is no way to wait.
func (h *half) sleep() bool {
	h.poll[0] = unix.PollFd{Fd: int32(h.in), Events: unix.POLLIN}
	h.poll[1] = unix.PollFd{Fd: int32(h.wake), Events: unix.POLLIN}
	timeout := (*unix.Timespec)(nil)
	if next, ok := h.line.next(); ok {
		h.timeout = unix.NsecToTimespec(int64(max(next-h.now(), 0)))
		timeout = &h.timeout
	}
	if _, err := unix.Ppoll(h.poll[:], timeout, nil); err != nil && err != unix.EINTR {
		return false
	}
	if h.poll[1].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(h.wake, b[:])
	}
	return true
}
