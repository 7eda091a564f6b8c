package vtunnel

import (
	"fmt"
	"io"
)

// Lines are what the original prints, on stdout, which scripts read: a write each, so nothing is left in a buffer. nil prints nothing.
type Lines struct {
	To      io.Writer // one that several may write to at once, as a file
	Verbose bool
}

// Say prints a line.
func (l *Lines) Say(format string, args ...any) {
	if l != nil {
		// Who read it may be gone, which ends no tunnel.
		_, _ = l.To.Write(fmt.Appendf(nil, "vtunnel: "+format+"\n", args...))
	}
}

func (l *Lines) verbose() bool { return l != nil && l.Verbose }
