package cli

import (
	"net"
	"os"
	"strings"
	"sync"
)

// Ready is the state of a service that serves.
const Ready = "READY=1"

// Notify tells the service manager, if there is one, the states (sd_notify(3)), which are separated
// by newlines there: those within a state do not pass. A manager that does not listen is no reason
// to stop.
func Notify(states ...string) {
	conn := manager()
	if conn == nil {
		return
	}
	for i, s := range states {
		states[i] = oneLine(s)
	}
	_, _ = conn.Write([]byte(strings.Join(states, "\n")))
}

// manager connects to the service manager once: later this process may not have the right to.
var manager = sync.OnceValue(func() net.Conn {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"}) // @... is abstract in Go, too
	if err != nil {
		return nil
	}
	return conn
})
