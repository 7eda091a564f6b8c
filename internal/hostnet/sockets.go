package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Socket is one of this network namespace that listens on TCP, or is bound on UDP without a peer.
type Socket struct {
	UDP   bool // else TCP
	Addr  netip.Addr
	Port  uint16
	Only6 bool   // Addr is :: and does not stand for addresses of IPv4 (IPV6_V6ONLY)
	Inode uint32 // by which its program is found
}

// Sockets finds them by sock_diag(7), which takes no rights. OpenSockets makes one. One goroutine at a time uses it.
type Sockets struct {
	own *os.File // /proc/self/fd: opened before the rights to open it are gone
	// FirstEphemeral and LastEphemeral are the ports of programs that name none (ip_local_port_range).
	FirstEphemeral, LastEphemeral uint16
}

// OpenSockets opens what List needs. It is called before this process is confined.
func OpenSockets() (*Sockets, error) {
	own, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("watch listening sockets (is /proc mounted?): %w", err)
	}
	s := &Sockets{own: own, FirstEphemeral: 32768, LastEphemeral: 60999} // the kernel's own, where /proc/sys is hidden
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &s.FirstEphemeral, &s.LastEphemeral)
	}
	return s, nil
}

// Close gives back what OpenSockets has opened.
func (s *Sockets) Close() error { return s.own.Close() }

// ErrNoDiag is returned by List, with what was found, where the kernel does not tell of all sockets.
var ErrNoDiag = errors.New("this kernel tells nothing of such sockets: it takes the modules tcp_diag and udp_diag, of CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG")

// List returns all such sockets but those of this process.
func (s *Sockets) List() (all []Socket, err error) {
	return s.list(unix.IPPROTO_TCP, unix.IPPROTO_UDP)
}

func (s *Sockets) list(protocols ...uint8) (all []Socket, lacking error) {
	own, err := s.inodes()
	if err != nil {
		return nil, fmt.Errorf("list the sockets of this process: %w", err)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range protocols {
			found, err := whole(func() ([]Socket, error) { return dumpSockets(family, protocol) })
			if errors.Is(err, unix.ENOENT) {
				if family == unix.AF_INET { // else there is no IPv6
					lacking = fmt.Errorf("list sockets of protocol %d: %w", protocol, ErrNoDiag)
				}
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list listening sockets: %w", err)
			}
			for _, f := range found {
				if !own[f.Inode] {
					all = append(all, f)
				}
			}
		}
	}
	return all, lacking
}

// inodes are those of the sockets that this process has open.
func (s *Sockets) inodes() (map[uint32]bool, error) {
	if _, err := s.own.Seek(0, 0); err != nil {
		return nil, err
	}
	names, err := s.own.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := map[uint32]bool{}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		var st unix.Stat_t
		if err == nil && unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK { // else it was closed meanwhile
			all[uint32(st.Ino)] = true
		}
	}
	return all, nil
}

// Of the kernel's TCP states (net/tcp_states.h): UDP without a peer is in the second.
const (
	stateListen = 10
	stateClose  = 7
)

// attrOnly6 is INET_DIAG_SKV6ONLY (linux/inet_diag.h).
const attrOnly6 = 11

// A diagRequest is struct inet_diag_req_v2 of a dump (linux/inet_diag.h).
type diagRequest struct {
	family, protocol uint8
	states           uint32
}

func (r *diagRequest) Len() int { return 56 }

// Serialize implements nl.NetlinkRequestData.
func (r *diagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, r.protocol
	binary.NativeEndian.PutUint32(b[4:], r.states)
	return b
}

func dumpSockets(family, protocol uint8) (all []Socket, err error) {
	states := uint32(1 << stateListen)
	if protocol == unix.IPPROTO_UDP {
		states = 1 << stateClose
	}
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&diagRequest{family, protocol, states})
	err = req.ExecuteIter(unix.NETLINK_SOCK_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(b []byte) bool {
		if s, ok := parseSocket(b); ok {
			s.UDP = protocol == unix.IPPROTO_UDP
			all = append(all, s)
		}
		return true
	})
	return all, err
}

// parseSocket reads struct inet_diag_msg, of 72 bytes, and the attributes behind it.
func parseSocket(b []byte) (s Socket, ok bool) {
	const length = 72
	if len(b) < length {
		return s, false
	}
	s.Port = binary.BigEndian.Uint16(b[4:])
	s.Addr = netip.AddrFrom4([4]byte(b[8:]))
	if b[0] == unix.AF_INET6 {
		s.Addr = netip.AddrFrom16([16]byte(b[8:])).Unmap()
	}
	s.Inode = binary.NativeEndian.Uint32(b[68:])
	attrs, err := nl.ParseRouteAttr(b[length:])
	for _, a := range attrs {
		if a.Attr.Type == attrOnly6 && len(a.Value) == 1 {
			s.Only6 = s.Addr == netip.IPv6Unspecified() && a.Value[0] != 0
		}
	}
	return s, err == nil && s.Port != 0
}

// ProgramNames returns the names of the programs that have sockets open, by inode: as far as /proc says, which shows a process
// the descriptors of those of its own user, without more rights than it, unless it has CAP_SYS_PTRACE.
func ProgramNames(inodes []uint32) map[uint32]string {
	wanted := make(map[string]uint32, len(inodes))
	for _, i := range inodes {
		wanted[fmt.Sprintf("socket:[%d]", i)] = i
	}
	names := map[uint32]string{}
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		if len(names) == len(inodes) {
			break
		}
		dir := "/proc/" + p.Name()
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue // it has ended, or is not shown
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + "/fd/" + fd.Name())
			i, ok := wanted[link]
			if err != nil || !ok {
				continue
			}
			if name, err := os.ReadFile(dir + "/comm"); err == nil {
				names[i] = strings.TrimSuffix(string(name), "\n")
			}
		}
	}
	return names
}
