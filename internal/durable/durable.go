// Package durable puts small files on disk so that a crash or a power cut leaves the old one or the new
// one, whole: written beside it, synced, renamed, and the directory synced, or the name may be lost.
// Files are for their owner's eyes (0600, directories 0700).
//
// A Dir is an open directory: what is in it can be reached for as long as it is open, also by a process
// that has given up the right to come by its path.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Dir is an open directory. Names are those of files in it.
type Dir struct{ *os.Root }

// Open opens the state directory of a program, which it makes if need be.
func Open(path string) (*Dir, error) {
	if err := MakeDir(path); err != nil {
		return nil, explain(path, err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, explain(path, err)
	}
	return &Dir{root}, nil
}

// Give lets another user work in the directory: he can make files in it, and those whose names begin with one
// of the prefixes become his. All others he can neither read nor replace.
func (d *Dir) Give(uid, gid int, prefixes ...string) error {
	entries, err := fs.ReadDir(d.FS(), ".")
	if err != nil {
		return d.Explain(err)
	}
	for _, e := range entries {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			continue
		}
		if err := d.giveFile(e.Name(), uid, gid); err != nil {
			return d.Explain(err)
		}
	}
	if err := d.Chown(".", -1, gid); err != nil {
		return d.Explain(err)
	}
	if err := d.Chmod(".", fs.ModeSticky|0o770); err != nil {
		return d.Explain(err)
	}
	return nil
}

// giveFile gives a file, or a socket, that is root's or the user's already. It may be a link to what is not meant:
// those are left.
func (d *Dir) giveFile(name string, uid, gid int) error {
	info, err := d.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if kind := info.Mode().Type(); !ok || kind != 0 && kind != fs.ModeSocket || st.Nlink != 1 || st.Uid != 0 && int(st.Uid) != uid {
		return fmt.Errorf("%s is a link, or somebody else's: remove it", name)
	}
	return d.Lchown(name, uid, gid)
}

// Explain adds to an error of the directory which one it is, and what to do about it.
func (d *Dir) Explain(err error) error { return explain(d.Name(), err) }

func explain(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("state directory %s: no write access: start as root, or choose another with --state DIR: %w", path, err)
	}
	return fmt.Errorf("state directory %s: %w", path, err)
}

// Replace writes a file, in the place of one that may be there.
func (d *Dir) Replace(name string, b []byte) error { return d.write(name, b, 0, private) }

// ReplaceOpen is Replace for a file that everybody may read, and that its writer writes anew when it starts: who reads finds it whole, but nobody
// waits for the disk, and after a power cut it may be the old one, or empty.
func (d *Dir) ReplaceOpen(name string, b []byte) error { return d.write(name, b, 0, 0o644) }

// Create writes a file that is not there yet; if it is, the error is fs.ErrExist.
func (d *Dir) Create(name string, b []byte) error {
	return d.write(name, b, unix.RENAME_NOREPLACE, private)
}

// private is the mode of files whose owner is the one of their directory.
const private = 0o600

// Sync makes what was made, renamed or removed in the directory last.
func (d *Dir) Sync() error {
	f, err := d.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *Dir) write(name string, b []byte, flags uint, mode fs.FileMode) (err error) {
	beside := name + ".new" + strconv.FormatUint(rand.Uint64(), 36)
	f, err := d.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, private)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = d.Remove(beside) // there is none after a rename
		}
	}()
	if mode == private {
		err = d.likeOthers(f)
	} else {
		err = f.Chmod(mode)
	}
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err != nil {
		return err
	}
	if mode == private {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = d.rename(beside, name, flags); err != nil || mode != private {
		return err
	}
	return d.Sync()
}

// likeOthers gives a file that root writes to whom the directory belongs, who may run the service.
func (d *Dir) likeOthers(f *os.File) error {
	info, err := d.Lstat(".")
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && st.Uid != 0 {
		return f.Chown(int(st.Uid), int(st.Gid))
	}
	return nil
}

func (d *Dir) rename(from, to string, flags uint) error {
	if flags == 0 {
		return d.Rename(from, to)
	}
	self, err := d.Open(".")
	if err != nil {
		return err
	}
	defer self.Close()
	fd := int(self.Fd())
	err = unix.Renameat2(fd, from, fd, to, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system or a kernel without flags
		if _, statErr := d.Lstat(to); statErr == nil {
			return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
		}
		return d.Rename(from, to)
	}
	if err != nil {
		return &fs.PathError{Op: "rename", Path: to, Err: err}
	}
	return nil
}

// Replace writes a file, in the place of one that may be there.
func Replace(path string, b []byte) error { return in(path, b, (*Dir).Replace) }

// ReplaceOpen is Replace for a file that everybody may read.
func ReplaceOpen(path string, b []byte) error { return in(path, b, (*Dir).ReplaceOpen) }

// Create writes a file that is not there yet; if it is, the error is fs.ErrExist.
func Create(path string, b []byte) error { return in(path, b, (*Dir).Create) }

func in(path string, b []byte, write func(*Dir, string, []byte) error) error {
	return with(filepath.Dir(path), func(d *Dir) error { return write(d, filepath.Base(path), b) })
}

func with(dir string, do func(*Dir) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return do(&Dir{root})
}

// SyncDir is Sync for a path.
func SyncDir(path string) error { return with(path, (*Dir).Sync) }

// MakeDir makes a directory, and those above it if need be.
func MakeDir(dir string) error {
	above := filepath.Dir(dir)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && above != dir {
		if err = MakeDir(above); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := os.Stat(dir); statErr == nil && !info.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return SyncDir(above)
}
