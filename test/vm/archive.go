package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
)

// An Archive writes a cpio archive in the "newc" format, the one of an initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source):
//
//	entry: header | name NUL, padded to 4 | data, padded to 4
//	header: "070701", then 13 numbers of 8 hexadecimal digits: inode, mode, uid, gid, links, mtime,
//	size of data, device major and minor, own major and minor, size of name with NUL, checksum (0)
//
// The folders above an entry are made by themselves. The first error sticks and is given by Close.
type Archive struct {
	w    *bufio.Writer
	size int64
	last int // inode of the last entry; equal inodes would be taken for hard links
	dirs map[string]bool
	err  error
}

// File types of st_mode (inode(7)).
const (
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000
)

// NewArchive starts an archive.
func NewArchive(w io.Writer) *Archive {
	return &Archive{w: bufio.NewWriter(w), dirs: map[string]bool{".": true, "/": true}}
}

// Dir adds a folder, unless it is there.
func (a *Archive) Dir(name string) {
	if name = path.Clean(name); !a.dirs[name] {
		a.dirs[name] = true
		a.entry(name, modeDir|0o755, nil)
	}
}

// File adds a file with permissions perm.
func (a *Archive) File(name string, perm uint32, data []byte) { a.entry(name, modeFile|perm, data) }

// Copy adds the file src, as executable: what needs copying here are programs and libraries.
func (a *Archive) Copy(name, src string) {
	data, err := os.ReadFile(src)
	if a.err == nil {
		a.err = err
	}
	a.File(name, 0o755, data)
}

// Symlink adds a symbolic link to target.
func (a *Archive) Symlink(name, target string) { a.entry(name, modeSymlink|0o777, []byte(target)) }

// Close ends the archive; it does not close the writer below.
func (a *Archive) Close() error {
	a.raw("TRAILER!!!", 0, nil)
	if err := a.w.Flush(); a.err == nil {
		a.err = err
	}
	return a.err
}

func (a *Archive) entry(name string, mode uint32, data []byte) {
	name = path.Clean(name)
	a.Dir(path.Dir(name))
	a.last++
	a.raw(name, mode, data)
}

func (a *Archive) raw(name string, mode uint32, data []byte) {
	header := []any{a.last, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0}
	a.write([]byte("070701"))
	for _, n := range header {
		a.write(fmt.Appendf(nil, "%08x", n))
	}
	a.write([]byte(name + "\x00"))
	a.pad()
	a.write(data)
	a.pad()
}

func (a *Archive) pad() { a.write(make([]byte, -a.size&3)) }

func (a *Archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
		a.size += int64(len(b))
	}
}
