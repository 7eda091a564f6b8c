package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

const (
	// A name is taken until the process that had it has tidied up: it may have been killed a moment ago.
	busyPause = 20 * time.Millisecond
	busyLimit = 2 * time.Second
)

// An Interface is a TUN as the process that makes it holds it. It vanishes from the system when it and
// all its Devices are closed.
type Interface struct {
	Name  string
	Index int  // in the network namespace of this process
	USO   bool // the kernel takes and gives super-packets of UDP: Linux 6.2 and later
	FD    int  // of no poller: who only holds a TUN need not wake up for each packet
}

// Create makes an interface, which needs CAP_NET_ADMIN. name may end in %d, which the kernel replaces by a
// number.
func Create(name string, mtu int) (*Interface, error) {
	dev, err := create(name, mtu)
	if err != nil {
		return nil, explain(name, err)
	}
	i := &Interface{FD: -1}
	if i.Name, err = dev.Name(); err == nil {
		i.FD, err = unix.FcntlInt(dev.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	}
	// The library watches the interface, which hostnet does for us; what it has opened is not needed.
	_ = dev.Close()
	if err == nil {
		err = i.setOffload()
	}
	if err == nil {
		var link *net.Interface
		if link, err = net.InterfaceByName(i.Name); err == nil {
			i.Index = link.Index
		}
	}
	if err != nil {
		i.Close()
		return nil, fmt.Errorf("open interface %s: %w", name, err)
	}
	return i, nil
}

func create(name string, mtu int) (wgtun.Device, error) {
	deadline := time.Now().Add(busyLimit)
	for {
		dev, err := wgtun.CreateTUN(name, mtu)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return dev, err
		}
		time.Sleep(busyPause)
	}
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

// setOffload repeats what the library did, to learn whether the kernel knows UDP segmentation.
func (i *Interface) setOffload() error {
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	i.USO = unix.IoctlSetInt(i.FD, unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil
	if i.USO {
		return nil
	}
	return unix.IoctlSetInt(i.FD, unix.TUNSETOFFLOAD, tcp)
}

// Close gives the interface up. It is idempotent.
func (i *Interface) Close() {
	if i.FD >= 0 {
		_ = unix.Close(i.FD)
		i.FD = -1
	}
}
