package relay

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Info returns what the kernel knows of a connection (TCP_INFO, tcp(7)): bytes that it copies itself pass nobody else by.
func Info(c *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	return info, errors.Join(controlErr, err)
}
