package wire

import (
	"os"

	"golang.org/x/sys/unix"
)

// txQueue is how many frames the kernel keeps until they are read: a burst of TCP is larger than the usual 1,000.
const txQueue = 4096

// A tap is an Ethernet interface whose cable is a file.
type tap struct{ fd int }

// openTAP makes an interface at an end.
func openTAP(e End) (t *tap, err error) {
	err = e.In(func() error {
		t, err = newTAP(e.Name)
		return err
	})
	return t, err
}

func newTAP(name string) (*tap, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	if err := makeTAP(fd, name); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &tap{fd}, nil
}

func makeTAP(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(socket)
	ifr.SetUint32(txQueue)
	return os.NewSyscallError("SIOCSIFTXQLEN", unix.IoctlIfreq(socket, unix.SIOCSIFTXQLEN, ifr))
}

// setCarrier says whether a cable is plugged in.
func (t *tap) setCarrier(plugged bool) error {
	value := 0
	if plugged {
		value = 1
	}
	return os.NewSyscallError("TUNSETCARRIER", unix.IoctlSetPointerInt(t.fd, unix.TUNSETCARRIER, value))
}
