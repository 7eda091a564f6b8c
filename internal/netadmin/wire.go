package netadmin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// maxMessage is the longest message in bytes, a little less than a socket takes by default
// (net.core.wmem_default). About 10,000 routes fit.
const maxMessage = 200_000

// A wire sends and receives messages. One goroutine receives; any number may send.
type wire struct {
	conn *net.UnixConn
	buf  []byte
	oob  []byte
}

func newWire(conn *net.UnixConn) *wire {
	return &wire{conn: conn, buf: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(4))}
}

// send sends v with the descriptor fd, unless that is negative.
func (w *wire) send(v any, fd int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long: are there more than 10,000 routes?", len(b))
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err = w.conn.WriteMsgUnix(b, oob, nil)
	return err
}

// receive waits for a message and returns the descriptor that came with it, or -1. At the end it returns
// io.EOF.
func (w *wire) receive(v any) (fd int, err error) {
	n, oobn, flags, _, err := w.conn.ReadMsgUnix(w.buf, w.oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return -1, err
	}
	fd, err = descriptor(w.oob[:oobn])
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = errors.New("message is too long")
	}
	if err == nil {
		err = json.Unmarshal(w.buf[:n], v)
	}
	if err != nil && fd >= 0 {
		_ = unix.Close(fd)
		fd = -1
	}
	return fd, err
}

// descriptor returns the one that is expected, or -1, and closes what else has come.
func descriptor(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	fd := -1
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, more := range fds {
			if fd < 0 {
				fd = more
			} else {
				_ = unix.Close(more)
			}
		}
	}
	return fd, nil
}
