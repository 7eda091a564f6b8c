package confine

import "golang.org/x/sys/unix"

const (
	arch        = unix.AUDIT_ARCH_RISCV64
	sysFstatat  = unix.SYS_FSTATAT
	sysRenameat = unix.SYS_RENAMEAT2 // it has no older one
)
