package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// errArch is returned where the numbers of system calls are not known here.
var errArch = errors.New("no filter for " + runtime.GOARCH)

// Offsets in struct seccomp_data (linux/seccomp.h) of what a filter loads, 4 bytes each. The lower halves
// of arguments are enough: all that are looked at are ints.
const (
	dataNumber = 0
	dataArch   = 4
	dataArg0   = 16 // little-endian: all of architectures are
	dataArg2   = 16 + 2*8
)

// What a filter returns (linux/seccomp.h).
const (
	returnAllow = 0x7fff0000
	returnErrno = 0x00050000 | uint32(unix.EPERM)
	returnNone  = 0x00050000 | uint32(unix.ENOSYS)
)

// sizeNetlink is sizeof(struct sockaddr_nl): no address of another family that could be bound is as short.
const sizeNetlink = 12

// seccomp lets through what a Go program does that has opened all it needs.
func (r Rules) seccomp() error {
	if arch == 0 {
		return errArch
	}
	if len(r.Families) > 16 { // more would not fit into a jump
		return errors.New("too many families of sockets")
	}
	filter, err := r.filter()
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter, tsync = 1, 1 // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC: all threads
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, tsync, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(&prog)
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return fmt.Errorf("thread %d could not be filtered", thread)
	}
	return nil
}

// filter is the program: the calls that are always allowed, for which the kernel keeps a bitmap and runs
// nothing (Linux 5.11), then those that depend on an argument.
func (r Rules) filter() ([]unix.SockFilter, error) {
	allow, deny := bpf.RetConstant{Val: returnAllow}, bpf.RetConstant{Val: returnErrno}
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: dataArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		deny,
		bpf.LoadAbsolute{Off: dataNumber, Size: 4},
	}
	always := slices.Clone(calls)
	if r.Ioctl {
		always = append(always, unix.SYS_IOCTL)
	}
	if r.Links {
		always = append(always, unix.SYS_SYMLINKAT)
	}
	if r.Connect {
		always = append(always, unix.SYS_CONNECT)
	}
	if r.Listen {
		always = append(always, unix.SYS_LISTEN)
	}
	// The flags of clone3 can not be looked at; a C library that hears of none goes on to clone.
	p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE3, SkipTrue: 1}, bpf.RetConstant{Val: returnNone})
	for _, nr := range always {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(nr), SkipTrue: 1}, allow)
	}
	// a call, the argument that decides, and what it has to be
	when := func(nr uintptr, arg uint32, tests ...bpf.Instruction) {
		body := append([]bpf.Instruction{bpf.LoadAbsolute{Off: arg, Size: 4}}, tests...)
		body = append(body, deny)
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(nr), SkipTrue: uint8(len(body))})
		p = append(p, body...)
	}
	var families []bpf.Instruction
	for _, f := range r.Families {
		families = append(families, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(f), SkipTrue: 1}, allow)
	}
	when(unix.SYS_SOCKET, dataArg0, families...)
	if r.Bind {
		when(unix.SYS_BIND, dataArg0, allow)
	} else {
		when(unix.SYS_BIND, dataArg2, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: sizeNetlink, SkipTrue: 1}, allow)
	}
	// This process, and no other one of the same user.
	when(unix.SYS_TGKILL, dataArg0, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(os.Getpid()), SkipTrue: 1}, allow)
	when(unix.SYS_PRLIMIT64, dataArg0, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1}, allow)
	// Threads, and no processes; names for memory, and nothing else of prctl.
	when(unix.SYS_CLONE, dataArg0, bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.CLONE_THREAD, SkipTrue: 1}, allow)
	when(unix.SYS_PRCTL, dataArg0, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PR_SET_VMA, SkipTrue: 1}, allow)
	raw, err := bpf.Assemble(append(p, deny))
	if err != nil {
		return nil, fmt.Errorf("assemble the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return filter, nil
}
