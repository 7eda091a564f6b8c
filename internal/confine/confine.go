// Package confine takes rights away from this process, for good:
//
//	Landlock      files: only those named; no TCP port can be listened on           Linux 5.13, 6.7
//	user          another one than root, which owns nothing but the state directory
//	capabilities  none, or those named; none can be gained (no_new_privs)
//	seccomp       only the system calls which a running Go program that moves packets makes;
//	              sockets of the named families only; no new process                amd64, arm64, riscv64
//
// It is called once, when everything that takes rights has been opened, and before a byte of a stranger
// has been read. What a kernel does not have is left out and named.
package confine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Rules are the rights that stay.
type Rules struct {
	User         *User    // nil: as before
	Capabilities []int    // unix.CAP_...
	Read         []string // directories and files, and all below them
	Write        []string // the same, also to be written
	Sockets      []string // directories in which unix sockets can be made and removed
	Devices      []string
	Families     []int // of sockets that can be made: unix.AF_...
	Connect      bool  // sockets can be connected
	Bind         bool  // sockets of other families than AF_NETLINK can be bound
	Listen       bool  // with Bind: sockets can listen, on TCP ports, too
	Ioctl        bool
	Links        bool // symlinks can be made
	Processes    bool // others can be looked into by /proc, as far as capabilities go: Landlock keeps them away, so there is none
}

// A User is whom a process runs as.
type User struct{ UID, GID int }

// DefaultUser is the user that the package of a distribution, or the administrator, makes for Ferry.
const DefaultUser = "ferry"

// fallback has a number that nobody is given: systemd.io/UIDS-GIDS calls 60578 to 61183 unused. It is not
// nobody, whose processes could read what belongs to this one.
var fallback = User{61002, 61002}

// FindUser returns the user of that name or number; of an empty name, DefaultUser or, where there is none,
// a number that nobody has.
func FindUser(name string) (User, error) {
	u, err := user.Lookup(cmp.Or(name, DefaultUser))
	if err != nil && name == "" {
		return fallback, nil
	}
	if err != nil {
		id, numErr := strconv.ParseUint(name, 10, 31)
		if numErr != nil {
			return User{}, fmt.Errorf("there is no user %s: make one (useradd --system %s), or name another", name, name)
		}
		return User{int(id), int(id)}, nil
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return User{uid, gid}, errors.Join(uidErr, gidErr)
}

// Reachable says why this process, of root, can not become u, and give it files if it has to; nil: it can.
func (u User) Reachable(files bool) error {
	need := bits([]int{unix.CAP_SETUID, unix.CAP_SETGID})
	if files { // give them away now, and open them at the next start
		need |= bits([]int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE})
	}
	if missing := need &^ permitted(); missing != 0 {
		return fmt.Errorf("root without capabilities %#x can not become another user", missing)
	}
	for _, m := range []struct {
		file string
		id   int
	}{{"/proc/self/uid_map", u.UID}, {"/proc/self/gid_map", u.GID}} {
		if text, err := os.ReadFile(m.file); err == nil && !mapped(string(text), m.id) {
			return fmt.Errorf("this user namespace has no user %d", m.id)
		}
	}
	return nil
}

// mapped reports whether a user namespace has an ID (user_namespaces(7)).
func mapped(table string, id int) bool {
	for line := range strings.Lines(table) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && int64(id) >= inside && int64(id) < inside+count {
			return true
		}
	}
	return false
}

// Process confines this process. lacking names what the kernel, or the user namespace, does not have.
func Process(r Rules) (lacking []string, err error) {
	lack := func(what string, err error) {
		if err != nil {
			lacking = append(lacking, fmt.Sprintf("%s: %v", what, err))
		}
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	_, _ = time.Now().Zone() // which file says so is not readable afterwards
	// Paths are looked up with the rights that go next.
	if !r.Processes {
		lack("Landlock", r.landlock())
	}
	dropBounding(r.Capabilities)
	if r.User != nil {
		lack("user", r.User.become())
	}
	if err := setCapabilities(r.Capabilities); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	restoreDeathSignal()
	lack("seccomp", r.seccomp())
	return lacking, nil
}

// allThreads makes a system call in each thread of this process.
func allThreads(call, a, b uintptr) error {
	if _, _, errno := psx.Syscall6(call, a, b, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// become changes the user of all threads. The kernel takes all capabilities away then.
func (u User) become() error {
	if err := syscall.Setgroups(nil); err != nil && !errors.Is(err, unix.EPERM) { // a user namespace may forbid it
		return fmt.Errorf("leave all groups: %w", err)
	}
	if err := unix.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("become group %d: %w", u.GID, err)
	}
	if err := unix.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("become user %d: %w", u.UID, err)
	}
	return nil
}

// dropBounding keeps a file with capabilities from giving any. It takes CAP_SETPCAP; no_new_privs does the
// same for those without.
func dropBounding(keep []int) {
	kept := bits(keep)
	for c := range unix.CAP_LAST_CAP + 1 {
		if kept&(1<<c) == 0 {
			_ = allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c))
		}
	}
}

func bits(capabilities []int) (set uint64) {
	for _, c := range capabilities {
		set |= 1 << c
	}
	return set
}

// permitted returns the capabilities of this thread.
func permitted() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return 0
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

// setCapabilities leaves all threads those capabilities of keep that they have.
func setCapabilities(keep []int) error {
	kept := bits(keep) & permitted()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // 64 bits, as version 3 has it
	for i := range data {
		half := uint32(kept >> (32 * i))
		data[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)))
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&data)
	return err
}

// deathSignal is what the parent of this process has asked for it to be sent when the parent dies; 0: nothing. It
// belongs to the thread with which a process begins, on which variables like this one are set.
var deathSignal = getDeathSignal()

func getDeathSignal() (signal int32) {
	_ = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0, 0, 0)
	return signal
}

// restoreDeathSignal asks for it again: a change of user clears it (prctl(2), PR_SET_PDEATHSIG).
func restoreDeathSignal() {
	if deathSignal != 0 {
		_ = allThreads(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(deathSignal))
	}
}

// landlock keeps this process away from all files but some. What is open already stays so.
func (r Rules) landlock() error {
	const version = 1 << 0 // LANDLOCK_CREATE_RULESET_VERSION
	if abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version); errno != 0 {
		return fmt.Errorf("not in this kernel: %w", errno)
	} else if abi < 1 {
		return errors.New("not in this kernel")
	}
	rules := []landlock.Rule{
		landlock.RODirs(existing(r.Read, true)...), landlock.ROFiles(existing(r.Read, false)...),
		landlock.RWDirs(existing(r.Write, true)...), landlock.RWFiles(existing(r.Write, false)...),
		landlock.RWFiles(existing(r.Devices, false)...).WithIoctlDev(),
	}
	if sockets := existing(r.Sockets, true); len(sockets) > 0 {
		rules = append(rules, landlock.PathAccess(makeSock|removeFile, sockets...))
	}
	if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		return err
	}
	if r.Listen {
		return nil
	}
	const bindTCP = 1 << 0 // LANDLOCK_ACCESS_NET_BIND_TCP
	return landlock.MustConfig(landlock.AccessNetSet(bindTCP)).BestEffort().RestrictNet()
}

// Rights of Landlock, LANDLOCK_ACCESS_FS_REMOVE_FILE and _MAKE_SOCK (linux/landlock.h).
const (
	removeFile landlock.AccessFSSet = 1 << 5
	makeSock   landlock.AccessFSSet = 1 << 9
)

// existing returns those of paths that are directories, or are not.
func existing(paths []string, directories bool) (found []string) {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() == directories {
			found = append(found, path)
		}
	}
	return found
}
