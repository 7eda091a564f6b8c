package netsock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Ping returns a socket for ICMP echo over IPv4: one for pings, which takes no rights where net.ipv4.ping_group_range has the group of this
// process, else a raw one, which takes CAP_NET_RAW.
func Ping() (fd int, err error) {
	fd, err = ping(unix.SOCK_DGRAM)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EPROTONOSUPPORT) {
		fd, err = ping(unix.SOCK_RAW)
	}
	return fd, os.NewSyscallError("socket", err)
}

// PingTakesRights tells whether Ping needs CAP_NET_RAW.
func PingTakesRights() bool {
	fd, err := ping(unix.SOCK_DGRAM)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err != nil
}

func ping(kind int) (int, error) {
	return unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
}
