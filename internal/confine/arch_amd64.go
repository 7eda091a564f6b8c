package confine

import "golang.org/x/sys/unix"

const (
	arch        = unix.AUDIT_ARCH_X86_64
	sysFstatat  = unix.SYS_NEWFSTATAT
	sysRenameat = unix.SYS_RENAMEAT
)
