package vm

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestArchive has another program read what Archive writes.
func TestArchive(t *testing.T) {
	skipElsewhere(t)
	var buf bytes.Buffer
	a := NewArchive(&buf)
	a.File("top", 0o644, []byte("12345"))
	a.File("usr/share/ferry/empty", 0o600, nil)
	a.File("usr/bin/program", 0o755, bytes.Repeat([]byte("x"), 70000))
	a.Dir("usr/share")
	a.Symlink("sbin", "usr/bin")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := output(t.Context(), dir, buf.Bytes(), "busybox", "cpio", "-i"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		name string
		mode fs.FileMode
		size int64
	}{
		{"top", 0o644, 5},
		{"usr/share", fs.ModeDir | 0o755, -1},
		{"usr/share/ferry/empty", 0o600, 0},
		{"usr/bin/program", 0o755, 70000},
		{"sbin", fs.ModeSymlink | 0o777, 7},
	} {
		info, err := os.Lstat(filepath.Join(dir, want.name))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != want.mode || want.size >= 0 && info.Size() != want.size {
			t.Errorf("%s: got %v, %d bytes; want %v, %d", want.name, info.Mode(), info.Size(), want.mode, want.size)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "sbin/program")); err != nil || len(b) != 70000 || b[69999] != 'x' {
		t.Errorf("sbin/program: got %d bytes, error %v", len(b), err)
	}
}

func TestArchiveMissingFile(t *testing.T) {
	a := NewArchive(new(bytes.Buffer))
	a.Copy("x", filepath.Join(t.TempDir(), "missing"))
	a.File("y", 0o644, nil)
	if err := a.Close(); err == nil {
		t.Error("a missing file gave no error")
	}
}
