package netsock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Ping returns a socket for ICMP echo over IPv4: one for pings, which takes no rights where net.ipv4.ping_group_range has the group of this
// process, else a raw one, which takes CAP_NET_RAW.
func Ping() (fd int, err error) {
	const flags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|flags, unix.IPPROTO_ICMP)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EPROTONOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|flags, unix.IPPROTO_ICMP)
	}
	return fd, os.NewSyscallError("socket", err)
}
