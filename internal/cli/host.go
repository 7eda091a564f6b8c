package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// CanTunnel says what keeps program from making a TUN interface of that name, if it is something
// that its user can change. It is asked before anything is done to the host.
func CanTunnel(program, name string) error {
	if !HasNetAdmin() {
		return fmt.Errorf("needs CAP_NET_ADMIN to make the interface %s: run as root (sudo %s ...)", name, program)
	}
	f, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	if err != nil {
		return noTUN(err)
	}
	return f.Close()
}

func noTUN(err error) error {
	const container = "in a container: pass --device " + tunPath
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist: load the module with 'modprobe tun' (%s)", tunPath, container)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s has no driver: load the module with 'modprobe tun'", tunPath)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be opened: allow it (%s)", tunPath, container)
	}
	return err
}

// HasNetAdmin looks at the effective capabilities: root of a user namespace has them, too.
func HasNetAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // 64 bits, as version 3 has it
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}
