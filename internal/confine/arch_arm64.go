package confine

import "golang.org/x/sys/unix"

const (
	arch        = unix.AUDIT_ARCH_AARCH64
	sysFstatat  = unix.SYS_FSTATAT
	sysRenameat = unix.SYS_RENAMEAT
)
