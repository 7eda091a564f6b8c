// Package hostdns puts name servers for one link in place, and takes them back. There are two ways:
//
//	/etc/resolv.conf leads to systemd-resolved     by D-Bus: servers and domains belong to the link, and
//	                                               go when it goes, also after kill -9
//	else                                           the file itself is replaced; what was there stands in
//	                                               it as comments, so that whoever finds it can restore it
//
// The file may be a symlink, which is replaced and comes back as it was; bind-mounted, as in containers
// and by 'ip netns exec', or in a directory that can not be written, where it is written in place; or
// read-only, which is said, and the tunnel goes without. What somebody else has written meanwhile, a
// DHCP client for example, is never overwritten on Close; the next Apply replaces it, and keeps it.
//
// No program is started. What comes here has been judged by package policy: addresses are netip.Addr,
// domains are host names.
package hostdns

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

const (
	defaultFile = "/etc/resolv.conf"
	defaultBus  = "/run/dbus/system_bus_socket"
	maxFile     = 64 << 10 // a larger one is none that a resolver reads
)

// A State is what should be asked for which names.
type State struct {
	Servers []netip.Addr // none: leave everything as it is
	Domains []string     // of short names, and of all that Servers are asked for unless All is set
	All     bool
}

// A Link is a link whose name servers are set. It is not safe for concurrent use.
type Link struct {
	name  string
	log   *slog.Logger
	file  string
	bus   string // path of the system bus
	index int    // of the link that systemd-resolved knows servers of; 0: none
	wrote bool   // the file may be ours
	told  string // the last problem that was logged
}

// New returns a Link for the interface name.
func New(name string, log *slog.Logger) *Link {
	return &Link{name: name, log: log, file: defaultFile, bus: defaultBus}
}

// CanSplit says whether servers can be asked for some domains only.
func CanSplit() bool { return New("", nil).resolvedRuns() }

func (l *Link) resolvedRuns() bool {
	_, err := os.Stat(l.bus)
	return withResolved && err == nil && leadsToResolved(l.file)
}

// Apply makes s true for the link with this index. It is also the way to repair and to change it. A
// tunnel works without, so what can not be done is logged and no error.
func (l *Link) Apply(index int, s State) {
	if len(s.Servers) == 0 {
		l.Close()
		return
	}
	if l.resolvedRuns() {
		err := setResolved(l.bus, index, s)
		if err == nil {
			l.index = index
			return
		}
		l.tell("systemd-resolved does not take the name servers", err)
	}
	if !s.All {
		l.tell("name servers for some domains only need systemd-resolved: they are left out", nil)
		return
	}
	if err := l.write(s); err != nil {
		l.tell("name servers can not be set: names are looked up as without the tunnel", err)
		return
	}
	l.told = ""
}

// tell logs a problem once, for Apply comes often.
func (l *Link) tell(msg string, err error) {
	if text := fmt.Sprint(msg, err); l.told != text {
		l.log.Warn(msg, "interface", l.name, "err", err)
		l.told = text
	}
}

// Close takes back what Apply did, as far as it is still there.
func (l *Link) Close() {
	if l.index != 0 {
		if err := revertResolved(l.bus, l.index); err != nil {
			l.log.Debug("systemd-resolved has forgotten the link already", "interface", l.name, "err", err)
		}
		l.index = 0
	}
	if !l.wrote {
		return
	}
	if err := l.restore(func(m marker) bool { return m == l.marker() }); err != nil {
		l.log.Error("name servers can not be restored", "file", l.file, "err", err)
		return
	}
	l.wrote = false
}

// CleanUp takes back what a killed process left in the file for the link name, or for one of this
// network namespace that does not exist any more.
func CleanUp(name string, log *slog.Logger) { New(name, log).cleanUp() }

func (l *Link) cleanUp() {
	if err := l.restore(l.dead); err != nil {
		l.log.Warn("left over from an earlier run", "file", l.file, "err", err)
	}
}

// dead says that nobody lives who made a file with m.
func (l *Link) dead(m marker) bool {
	own := l.marker()
	switch {
	case m.boot != own.boot:
		return true
	case m.netns != own.netns:
		return false // it can not be seen from here
	case m.link == l.name:
		return true
	}
	_, err := net.InterfaceByName(m.link)
	return err != nil
}

// restore puts back what was before ours, as long as it is by somebody who is to go.
func (l *Link) restore(gone func(marker) bool) error {
	now, err := l.read()
	if err != nil || now.by == nil || !gone(*now.by) {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	before := now.before
	for before.by != nil && (gone(*before.by) || l.dead(*before.by)) {
		before = before.before
	}
	l.log.Debug("restoring name servers", "file", l.file)
	switch {
	case before.link != "":
		return l.replaceBy(func(path string) error { return os.Symlink(before.link, path) })
	case before.missing:
		if err := os.Remove(l.file); err == nil {
			return nil
		}
	}
	return l.put(before.text, now.mode)
}

// write installs our file. If it is there already nothing is done.
func (l *Link) write(s State) error {
	l.wrote = true
	now, err := l.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		now = &content{missing: true, mode: 0o644}
	case err != nil:
		return err
	}
	before := now
	if now.by != nil && *now.by == l.marker() {
		before = now.before
	} else if link, err := os.Readlink(l.file); err == nil {
		text := format(l.marker(), s, &content{link: link})
		if l.replaceBy(func(path string) error { return writeNew(path, text, now.mode) }) == nil {
			return nil
		}
	}
	text := format(l.marker(), s, before)
	if text == now.text {
		return nil
	}
	return l.put(text, now.mode)
}

// put replaces the file at once, or where that is not possible, in place.
func (l *Link) put(text string, mode fs.FileMode) error {
	if fi, err := os.Lstat(l.file); err != nil || fi.Mode()&fs.ModeSymlink == 0 {
		if l.replaceBy(func(path string) error { return writeNew(path, text, mode) }) == nil {
			return nil
		}
	}
	f, err := os.OpenFile(l.file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err = f.WriteString(text); err == nil { // on a full disk what was there is not cut off
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
}

// replaceBy renames what make has made over the file.
func (l *Link) replaceBy(make func(path string) error) error {
	fresh := filepath.Join(filepath.Dir(l.file), "."+filepath.Base(l.file)+".ferry")
	_ = os.Remove(fresh) // of a process that was killed here
	if err := make(fresh); err != nil {
		_ = os.Remove(fresh)
		return err
	}
	if err := os.Rename(fresh, l.file); err != nil {
		_ = os.Remove(fresh)
		return err
	}
	return nil
}

func writeNew(path, text string, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// leadsToResolved says whether whoever reads the file asks systemd-resolved.
func leadsToResolved(file string) bool {
	if path, err := filepath.EvalSymlinks(file); err == nil {
		switch path {
		case "/run/systemd/resolve/stub-resolv.conf", "/usr/lib/systemd/resolv.conf":
			return true
		}
	}
	text, err := os.ReadFile(file)
	return err == nil && asksResolved(string(text))
}

// asksResolved says whether a text names systemd-resolved and nobody else.
func asksResolved(text string) bool {
	servers := 0
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if servers++; f[1] != "127.0.0.53" && f[1] != "127.0.0.54" {
				return false
			}
		}
	}
	return servers > 0
}
