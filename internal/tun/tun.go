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
// One goroutine reads; any number may write. Who makes the interface (Create, which needs rights) and who
// moves its packets (Device, which needs none) may be two processes.
package tun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// ErrGone is returned when the interface was deleted.
var ErrGone = errors.New("interface is gone")

// BatchSize is the room in bytes that ReadFrames is best called with.
const BatchSize = 256 << 10

// maxFrame is the room that one read may need.
const maxFrame = proto.FrameHeaderLen + packet.OffloadLen + proto.MaxPacket

// A Device is an open TUN interface.
type Device struct {
	name    string
	index   int // of the interface, in the network namespace of this process
	file    *os.File
	raw     syscall.RawConn
	uso     bool
	rd      reader
	writers sync.Pool
}

// New returns a Device of a descriptor, which belongs to it from then on, of the interface i.
func New(fd int, i Interface) (*Device, error) {
	err := unix.SetNonblock(fd, true) // else reading could not be ended
	d := &Device{name: i.Name, index: i.Index, uso: i.USO, file: os.NewFile(uintptr(fd), i.Name)}
	if err == nil {
		d.raw, err = d.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open interface %s: %w", i.Name, err), d.file.Close())
	}
	d.rd.try = d.rd.read
	d.writers.New = func() any {
		w := new(writer)
		w.do = w.write
		return w
	}
	return d, nil
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

// Close ends pending calls, and deletes the interface if nobody else holds it. It is idempotent.
func (d *Device) Close() error {
	if err := d.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
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
