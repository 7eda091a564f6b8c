package netadmin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/netsock"
	"ferry/internal/durable"
	"ferry/internal/hostnet"
	"ferry/internal/tun"
)

// An admin does what a client asks for. Its methods are called by one goroutine.
type admin struct {
	rules Rules
	log   *slog.Logger
	link  *hostnet.Link // nil until there was a TUN
	tun   *tun.Interface
	full  bool          // a full tunnel was applied and not taken back
	state hostnet.State // as last applied, with what detour has added
	made  []string      // paths of unix sockets that were made and not removed

	watching sync.WaitGroup
	watched  bool
}

// serve answers questions until the client ends, and then takes back what was done. But a full tunnel whose
// client was killed stays, to let nothing out beside it; the next start takes it back.
func (a *admin) serve(w *wire) error {
	ctx, cancel := context.WithCancel(context.Background())
	a.answerAll(ctx, w)
	cancel()
	a.watching.Wait()
	if a.full {
		a.log.Warn(a.rules.Program + " was killed: its full tunnel lets nothing out until it is started again")
		return nil
	}
	return a.undo()
}

// answerAll returns when the client has ended.
func (a *admin) answerAll(ctx context.Context, w *wire) {
	for {
		var q question
		fd, err := w.receive(&q)
		if err == nil && fd >= 0 {
			_ = unix.Close(fd)
		}
		if err == nil {
			err = a.answer(ctx, w, q)
		}
		if err != nil {
			return
		}
	}
}

// answer returns an error if the client is gone.
func (a *admin) answer(ctx context.Context, w *wire, q question) error {
	var r answer
	fd, keep, err := -1, false, error(nil)
	switch q.Op {
	case opTUN:
		r.TUN, fd, err = a.openTUN()
		keep = true
	case opApply:
		err = a.apply(q.State)
	case opWatch:
		err = a.watch(ctx, w)
	case opUndo:
		err = a.undo()
	case opSocket:
		if fd, err = a.socket(q.Arg); err == nil {
			a.detour(q.To)
		}
	case opConnect:
		fd, err = a.connect(ctx, q.Arg)
	case opListen:
		fd, err = a.listen(ctx, q.Arg, q.To)
	case opDial:
		fd, err = a.dial(q.Arg, q.From, q.To)
	case opRemove:
		err = a.remove(q.Arg)
	case opFlows:
		r.Tracked, err = a.flows(q.Arg)
	case opNames:
		if err = errNoNames; a.rules.Names {
			r.Names, err = hostnet.ProgramNames(q.Inodes), nil
		}
	case opRead:
		fd, err = a.open(q.Arg)
	case opWrite:
		err = a.write(q.Arg, q.Data)
	default:
		err = fmt.Errorf("%q is no question", q.Op)
	}
	if err != nil {
		r.Error = err.Error()
		var errno syscall.Errno
		if errors.As(err, &errno) {
			r.Errno = uintptr(errno)
		}
	}
	err = w.send(r, fd)
	if fd >= 0 && !keep {
		_ = unix.Close(fd)
	}
	return err
}

// openTUN makes the interface, or makes it again when it was lost.
func (a *admin) openTUN() (*link, int, error) {
	if a.tun != nil {
		a.tun.Close()
	}
	i, err := tun.Create(a.rules.TUN, a.rules.MTU)
	if err != nil {
		return nil, -1, err
	}
	if a.link == nil {
		// Now that the name is ours, what is found around it was left by a process that was killed.
		if err := hostnet.CleanUp(i.Name, a.rules.Policy != nil, a.log); err != nil {
			a.log.Warn("left over from an earlier run", "interface", i.Name, "err", err)
		}
		a.link = hostnet.New(i.Name, a.log)
		a.rules.TUN = i.Name
	}
	a.tun = i
	return &link{Name: i.Name, Index: i.Index, USO: i.USO}, i.FD, nil
}

// errNoNames is returned to a client that wants no names.
var errNoNames = errors.New("this program was started to tell no names of programs")

var errNoTUN = errors.New("no interface was opened")

func (a *admin) apply(s *hostnet.State) error {
	if a.link == nil || s == nil {
		return errNoTUN
	}
	if err := a.rules.judge(*s); err != nil {
		return err
	}
	err := a.link.Apply(*s)
	a.state = *s
	a.full = s.Full() || a.full && err != nil // what failed may be there in part
	return err
}

// watch sends events until ctx is done or the client is gone.
func (a *admin) watch(ctx context.Context, w *wire) error {
	switch {
	case a.link == nil:
		return errNoTUN
	case a.watched:
		return errors.New("the interface is watched already")
	}
	a.watched = true
	a.watching.Go(func() {
		err := a.link.Watch(ctx, func(e hostnet.Event) { _ = w.send(answer{Event: &e}, -1) })
		if err != nil { // nothing would be repaired any more: better both start anew
			a.log.Error("interface is not watched any more", "interface", a.rules.TUN, "err", err)
			_ = w.conn.Close()
		}
	})
	return nil
}

// undo takes everything back. The interface goes last: until then its name tells a process that starts
// meanwhile to wait.
func (a *admin) undo() (err error) {
	if a.link != nil {
		err = a.link.Close()
	}
	a.full = a.full && err != nil
	for _, path := range slices.Concat(a.rules.Remove, a.made) {
		removeDead(path)
	}
	if a.tun != nil {
		a.tun.Close()
	}
	return err
}

// removeDead removes a unix socket where nobody listens.
func removeDead(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	for _, network := range []string{"unix", "unixpacket", "unixgram"} {
		conn, err := net.DialTimeout(network, path, time.Second)
		switch {
		case err == nil:
			_ = conn.Close()
			return
		case errors.Is(err, syscall.ECONNREFUSED):
			_ = os.Remove(path)
			return
		case !errors.Is(err, syscall.EPROTOTYPE):
			return
		}
	}
}

// socket makes a socket with the mark.
func (a *admin) socket(network string) (fd int, err error) {
	switch {
	case a.rules.Mark == 0:
		return -1, errors.New("sockets of this client have no mark")
	case network == "icmp4" && !a.rules.Pings:
		return -1, errors.New("this client does not ping")
	}
	switch network {
	case "tcp4":
		fd, err = newSocket(unix.AF_INET, unix.SOCK_STREAM)
	case "tcp6":
		fd, err = newSocket(unix.AF_INET6, unix.SOCK_STREAM)
	case "udp4":
		fd, err = newSocket(unix.AF_INET, unix.SOCK_DGRAM)
	case "udp6":
		fd, err = newSocket(unix.AF_INET6, unix.SOCK_DGRAM)
	case "icmp4":
		fd, err = netsock.Ping()
	default:
		err = fmt.Errorf("network %q is none of tcp4, tcp6, udp4, udp6, icmp4", network)
	}
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(a.rules.Mark)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set SO_MARK (needs CAP_NET_ADMIN): %w", err)
	}
	return fd, nil
}

func newSocket(domain, kind int) (int, error) {
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

// maxPeers is how many addresses can have a way around the tunnel until the next State.
const maxPeers = 16

// detour sees to it that what a marked socket sends to an address does not go into the tunnel, where routes of the
// tunnel contain it: without that a gateway that has moved there is never reached again.
func (a *admin) detour(address string) {
	to, err := netip.ParseAddrPort(address)
	peer := to.Addr().Unmap()
	s := &a.state
	inside := slices.ContainsFunc(s.Routes, func(r netip.Prefix) bool { return r.Bits() > 0 && r.Contains(peer) })
	if err != nil || !inside || s.Full() || peer.IsLoopback() || slices.Contains(s.Outer.Peers, peer) || len(s.Outer.Peers) >= maxPeers {
		return
	}
	s.Outer.Peers = append(slices.Clone(s.Outer.Peers), peer)
	if err := a.link.Apply(*s); err != nil {
		a.log.Warn("no way around the tunnel", "to", peer, "err", err)
	}
}

// connectTime is how long a listener on a unix socket may take to have room for a connection.
const connectTime = 5 * time.Second

// connect connects to a unix socket.
func (a *admin) connect(ctx context.Context, path string) (fd int, err error) {
	if !slices.Contains(a.rules.Connect, path) {
		return -1, fmt.Errorf("%s is not a path that this client was told to connect to", path)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// open opens a file that may be read. The client may be able to make files in its directory: a name of its making
// leads nowhere.
func (a *admin) open(path string) (fd int, err error) {
	if !slices.Contains(a.rules.Read, path) {
		return -1, fmt.Errorf("%s is not a file that this program was told to read when it was started: start it anew", path)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return -1, fmt.Errorf("open %s: user %d has made it: chown it to root", path, st.Uid)
	}
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // a FIFO would wait for who writes
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("open %s: it is no file", path)
	}
	return fd, nil
}

// write replaces a file that may be replaced.
func (a *admin) write(path string, b []byte) error {
	if slices.Contains(a.rules.Open, path) {
		return durable.ReplaceOpen(path, b)
	}
	if !slices.Contains(a.rules.Write, path) {
		return fmt.Errorf("%s is not a file that this program was told to write", path)
	}
	return durable.Replace(path, b)
}
