// Package tun is the network interface whose other end is a file: packets that the kernel routes
// into it are read, packets that are written come out of it (Documentation/networking/tuntap.rst).
//
// The device is opened with IFF_VNET_HDR and segmentation offload, so what is read and written is
// a virtio-net header of 10 bytes and a packet of up to 64 KiB, which the kernel neither cut into
// segments nor summed up. Together with 4 bytes in front that is a data frame (package proto):
//
//	one read      [virtio-net header][IP packet...............]
//	ReadFrames [4][virtio-net header][IP packet...............][4][virtio-net header][IP ...
//	WriteFrames   \______________ one write _______________/
//
// A kernel accepts nearly anything that is written (a wrong length, a header of 0 words), so what
// is written must have been checked before.
//
// One goroutine reads; any number may write.
package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// ErrGone is returned when the interface was deleted.
var ErrGone = errors.New("interface is gone")

// BatchSize is the room in bytes that ReadFrames is best called with.
const BatchSize = 256 << 10

// maxFrame is the room that one read may need.
const maxFrame = proto.FrameHeaderLen + packet.OffloadLen + proto.MaxPacket

// A Device is an open TUN interface. It vanishes from the system when it is closed.
type Device struct {
	name    string
	index   int // of the interface, in the network namespace of this process
	dev     wgtun.Device
	raw     syscall.RawConn
	uso     bool
	rd      reader
	writers sync.Pool
	watched sync.WaitGroup
}

// Open makes the interface. name may end in %d, which the kernel replaces by a number.
func Open(name string, mtu int) (*Device, error) {
	dev, err := wgtun.CreateTUN(name, mtu)
	if err != nil {
		return nil, explain(name, err)
	}
	d := &Device{dev: dev}
	if d.name, err = dev.Name(); err == nil {
		d.raw, err = dev.File().SyscallConn()
	}
	if err == nil {
		err = d.setOffload()
	}
	if err == nil {
		var i *net.Interface
		if i, err = net.InterfaceByName(d.name); err == nil {
			d.index = i.Index
		}
	}
	if err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("open interface %s: %w", name, err)
	}
	d.rd.try = d.rd.read
	d.writers.New = func() any {
		w := new(writer)
		w.do = w.write
		return w
	}
	// The library reports its own findings, and stops when nobody takes them; hostnet watches
	// the interface for us.
	d.watched.Go(func() {
		for range dev.Events() {
		}
	})
	return d, nil
}

func explain(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("open interface %s: another program has it: choose another name with --tun, or stop that program: %w", name, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open interface %s: run as root or with CAP_NET_ADMIN: %w", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("open interface %s: this is no name for a TUN, or a device of another kind has it: %w", name, err)
	}
	return fmt.Errorf("open interface %s: %w", name, err)
}

// setOffload repeats what the library did, to learn whether the kernel knows UDP segmentation
// (Linux 6.2 and later).
func (d *Device) setOffload() error {
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	var err error
	controlErr := d.raw.Control(func(fd uintptr) {
		d.uso = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil
		if !d.uso {
			err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, tcp)
		}
	})
	return errors.Join(controlErr, err)
}

// Name returns the name of the interface.
func (d *Device) Name() string { return d.name }

// Here reports whether the interface is still in the network namespace of this process.
func (d *Device) Here() bool {
	_, err := net.InterfaceByIndex(d.index)
	return err == nil
}

// USO reports whether the kernel takes and gives super-packets of UDP.
func (d *Device) USO() bool { return d.uso }

// Close deletes the interface and ends pending calls. It is idempotent.
func (d *Device) Close() error {
	err := d.dev.Close()
	d.watched.Wait()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// ReadFrames waits for packets and fills buf with data frames, back to back, as long as more are
// there and fit. It returns how many bytes those are. buf has to have room for BatchSize bytes.
func (d *Device) ReadFrames(buf []byte) (int, error) {
	r := &d.rd
	r.buf, r.n = buf, 0
	err := d.raw.Read(r.try)
	if err == nil {
		err = r.err
	}
	r.buf = nil
	return r.n, explainIO("read", d.name, err)
}

type reader struct {
	buf []byte
	n   int
	err error
	try func(fd uintptr) bool // read, bound once
}

func (r *reader) read(fd uintptr) bool {
	r.err = nil
	for len(r.buf)-r.n >= maxFrame {
		n, err := unix.Read(int(fd), r.buf[r.n+proto.FrameHeaderLen:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return r.n > 0
		case err != nil:
			r.err = err
			return true
		case n <= packet.OffloadLen:
			continue
		}
		proto.PutDataHeader(r.buf[r.n:], n-packet.OffloadLen)
		r.n += proto.FrameHeaderLen + n
	}
	return true
}

// WriteFrames writes each of the data frames in run to the interface. It returns how many packets
// the kernel refused.
func (d *Device) WriteFrames(run []byte) (refused int, err error) {
	w := d.writers.Get().(*writer)
	w.run, w.refused, w.err = run, 0, nil
	// Control, not Write: any number of goroutines may write at once, and a TUN always takes what
	// it is given.
	err = d.raw.Control(w.do)
	if err == nil {
		err = w.err
	}
	refused = w.refused
	w.run = nil
	d.writers.Put(w)
	return refused, explainIO("write", d.name, err)
}

type writer struct {
	run     []byte
	refused int
	err     error            // of the last refused packet
	do      func(fd uintptr) // write, bound once
}

func (w *writer) write(fd uintptr) {
	for run := w.run; len(run) > 0; {
		n := proto.DataLen(run)
		for {
			_, err := unix.Write(int(fd), run[proto.FrameHeaderLen:n])
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				w.refused++
				w.err = err
			}
			break
		}
		run = run[n:]
	}
}

// explainIO turns the errors of a deleted or closed interface into ErrGone and net.ErrClosed.
func explainIO(op, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBADFD):
		err = ErrGone
	case errors.Is(err, os.ErrClosed):
		err = net.ErrClosed
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}
