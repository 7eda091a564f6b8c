package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Process has the keys by which both programs are told how to run.
type Process struct {
	RunAs  string `toml:"run_as"` // empty: see confine.FindUser
	Format string `toml:"log_format"`
	Level  string `toml:"log_level"`
}

// The values that log_format and log_level can have.
var (
	LogFormats = []string{"text", "json"}
	LogLevels  = []string{"debug", "info", "warn", "error"}
)

func (l *Process) bind(fs *pflag.FlagSet) {
	l.Format, l.Level = "text", "info"
	fs.StringVar(&l.RunAs, "run-as", "", "`name` or number of the user to run as when all is set up (default: ferry, or a number that nobody has)")
	fs.StringVar(&l.Format, "log-format", l.Format, "`format` of the log on stderr: text or json")
	fs.StringVar(&l.Level, "log-level", l.Level, "`level` of the log: debug, info, warn or error")
}

// NewLogger returns a logger to stderr for values that were checked.
func NewLogger(format, level string) *slog.Logger {
	l := Process{Format: format, Level: level}
	log, _, _ := l.logger(&source{flags: new(pflag.FlagSet)}, os.Stderr)
	return log
}

// logger returns a logger, its level, and what changes that.
func (l *Process) logger(s *source, w io.Writer) (*slog.Logger, slog.Level, func(slog.Level)) {
	level := new(slog.LevelVar)
	level.Set(read(s, "log_level", l.Level, parseLevel))
	return slog.New(l.handler(s, w, &slog.HandlerOptions{Level: level})), level.Level(), level.Set
}

func (l *Process) handler(s *source, w io.Writer, o *slog.HandlerOptions) slog.Handler {
	switch l.Format {
	case "json":
		return slog.NewJSONHandler(w, o)
	case "text":
		if inJournal() {
			o.ReplaceAttr = dropTime
		}
	default:
		s.fail("log_format", fmt.Errorf("%q is not a format: use text or json", l.Format))
	}
	return slog.NewTextHandler(w, o)
}

func parseLevel(s string) (slog.Level, error) {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	l, ok := levels[s]
	if !ok {
		return l, fmt.Errorf("%q is not a level: use debug, info, warn or error", s)
	}
	return l, nil
}

// inJournal reports whether stderr is a stream of systemd's journal, which has a clock of its own.
// The variable alone does not tell: children with another stderr inherit it (systemd.exec(5)).
func inJournal() bool {
	var st unix.Stat_t
	if unix.Fstat(int(os.Stderr.Fd()), &st) != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

func dropTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
