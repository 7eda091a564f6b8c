package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A TAP is an interface of this host, and the wire behind it. It vanishes when it is closed. One goroutine reads at a time; any may write.
type TAP struct {
	Name string
	MAC  net.HardwareAddr // of the interface
	file *os.File
}

// OpenTAP makes an interface that is up, which needs CAP_NET_ADMIN. It has an IPv4 address if that is valid. It is the kernel that is asked by ioctl(2)
// (netdevice(7)), so it works in a guest that has little else.
func OpenTAP(name string, mtu int, addr netip.Prefix) (*TAP, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("open interface %s: a name has 1 to 15 characters: %w", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(name, os.NewSyscallError("open /dev/net/tun", err))
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(fd)
		return nil, explainTAP(name, os.NewSyscallError("TUNSETIFF", err))
	}
	t := &TAP{Name: request.Name(), file: os.NewFile(uintptr(fd), name)}
	if err = t.configure(mtu, addr); err == nil {
		var link *net.Interface
		if link, err = net.InterfaceByName(t.Name); err == nil {
			t.MAC = link.HardwareAddr
			return t, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("open interface %s: %w", name, err), t.Close())
}

func explainTAP(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("open interface %s: another program has it: choose another name, or stop that program: %w", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("open interface %s: this is no name for a TAP, or a device of another kind has it: choose another: %w", name, err)
	}
	return explain(name, err)
}

// configure gives the interface its MTU and its address, and takes it up.
func (t *TAP) configure(mtu int, addr netip.Prefix) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(name string, request uint, fill func(*unix.Ifreq) error) {
		if err != nil {
			return
		}
		var r *unix.Ifreq
		if r, err = unix.NewIfreq(t.Name); err == nil {
			err = fill(r)
		}
		if err == nil {
			err = os.NewSyscallError(name, unix.IoctlIfreq(s, request, r))
		}
	}
	set("SIOCSIFMTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(uint32(mtu)); return nil })
	if addr.IsValid() {
		set("SIOCSIFADDR", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.Addr().AsSlice()) })
		set("SIOCSIFNETMASK", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.CIDRMask(addr.Bits(), 32)) })
	}
	set("SIOCSIFFLAGS", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
	return err
}

// Read reads one frame.
func (t *TAP) Read(b []byte) (int, error) { return t.file.Read(b) }

// Write writes one frame, of at least 14 bytes.
func (t *TAP) Write(b []byte) (int, error) { return t.file.Write(b) }

// SyscallConn implements syscall.Conn.
func (t *TAP) SyscallConn() (syscall.RawConn, error) { return t.file.SyscallConn() }

// Close takes the interface away, and ends Read.
func (t *TAP) Close() error { return t.file.Close() }
