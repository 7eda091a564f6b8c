package penguin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine is the length of the longest line in bytes. What is longer is passed over.
const maxLine = 1024

// lookTime is how often a file is looked at where nobody says that it has changed, as on file systems of other machines.
const lookTime = time.Second

// follow calls line with each line of a file, those that are there and those that come, until ctx is done. changes are of watch. A line without its end waits for it. The file may appear
// later, be truncated, and be replaced: then it begins anew.
func follow(ctx context.Context, changes *os.File, path string, log *slog.Logger, line func(string)) error {
	stop := context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	t := tail{path: path, log: log, line: line, done: ctx.Done()}
	defer t.close()
	b := make([]byte, 4<<10) // notices are merged, and what they say is of no interest
	for {
		t.read()
		// The file itself, which may be another one by now; that it is watched already changes nothing. Where it is not there its directory will tell.
		t.rewatch(changes)
		_ = changes.SetReadDeadline(time.Now().Add(lookTime))
		if ctx.Err() != nil {
			return nil
		}
		if _, err := changes.Read(b); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch %s: %w", path, err)
		}
	}
}

// watch returns inotify's notices (inotify(7)) about files that come into the directory of path. Those about what happens in all files there would be a lot,
// in /tmp.
func watch(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// A tail is what was read of a file.
type tail struct {
	path string
	log  *slog.Logger
	line func(string)
	done <-chan struct{} // closed: no more is read

	file    *os.File // nil: it was not there
	watched *os.File // the one that is watched
	rest    []byte   // of a line that has no end yet
	long    bool     // it is too long, and passed over
	told    bool     // that the file can not be read
}

func (t *tail) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}

// rewatch watches the file that is open, once.
func (t *tail) rewatch(changes *os.File) {
	if t.file == nil || t.file == t.watched {
		return
	}
	t.watched = t.file
	raw, err := changes.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			_, err = unix.InotifyAddWatch(int(fd), t.path, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF)
		})
	}
	if err != nil {
		t.log.Debug("events", "path", t.path, "err", err) // it is looked at every lookTime
	}
	t.read() // what was written before the watch
}

// read reads all that is there.
func (t *tail) read() {
	if err := t.reopen(); err != nil {
		if !t.told {
			level := slog.LevelError
			if errors.Is(err, fs.ErrNotExist) { // who makes it may come later
				level = slog.LevelWarn
			}
			t.log.Log(context.Background(), level, "events: the file can not be read; it is waited for", "path", t.path, "err", err)
			t.told = true
		}
		return
	}
	t.told = false
	var b [4 << 10]byte
	for {
		select {
		case <-t.done:
			return
		default:
		}
		n, err := t.file.Read(b[:])
		t.take(b[:n])
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.log.Warn("events", "path", t.path, "err", err)
			}
			return
		}
	}
}

// reopen opens the file if it is another one than before, and goes to its beginning if it became shorter.
func (t *tail) reopen() error {
	now, err := os.Stat(t.path)
	if err != nil {
		return err
	}
	if t.file != nil {
		was, err := t.file.Stat()
		if err == nil && os.SameFile(was, now) {
			return t.rewind(was.Size())
		}
		t.drain()
	}
	if !now.Mode().IsRegular() { // opening a FIFO waits, and some devices have no end
		return errors.New("it is no file with lines: move it away, or name another one")
	}
	// Without waiting, should it be another one by now.
	file, err := os.OpenFile(t.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if now, err = file.Stat(); err == nil && !now.Mode().IsRegular() {
		err = errors.New("it is no file any more")
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	t.close()
	t.file, t.rest, t.long = file, nil, false
	return nil
}

// drain reads what was written into a file before another one has taken its place.
func (t *tail) drain() {
	b, _ := io.ReadAll(io.LimitReader(t.file, 1<<20))
	t.take(b)
}

func (t *tail) rewind(size int64) error {
	at, err := t.file.Seek(0, io.SeekCurrent)
	if err != nil || at <= size {
		return err
	}
	t.rest, t.long = nil, false
	_, err = t.file.Seek(0, io.SeekStart)
	return err
}

// take finds the lines in what was read.
func (t *tail) take(b []byte) {
	for {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			break
		}
		t.keep(b[:end])
		if !t.long {
			if text := bytes.TrimSuffix(t.rest, []byte{'\r'}); len(text) > 0 {
				t.line(string(text))
			}
		}
		t.rest, t.long = t.rest[:0], false
		b = b[end+1:]
	}
	t.keep(b)
}

// keep keeps a part of a line.
func (t *tail) keep(b []byte) {
	if t.long {
		return
	}
	if len(t.rest)+len(b) > maxLine {
		t.log.Error("Unable to parse line: it is too long, and passed over", "path", t.path)
		t.long, t.rest = true, t.rest[:0]
		return
	}
	t.rest = append(t.rest, b...)
}
