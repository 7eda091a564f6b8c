package carrier

import "net"

// MaxRecord is the length in bytes of the longest record that a Cipher makes or opens, with its header:
// that of TLS 1.3 (RFC 8446, section 5.2).
const MaxRecord = 5 + 16<<10 + 256

// A Cipher makes the bytes of a stream secret and genuine, record by record. One goroutine at a time may
// seal, and one may open. Package tls has the one that there is.
type Cipher interface {
	// Seal appends records that hold b to dst.
	Seal(dst, b []byte) ([]byte, error)
	// Open appends what is in the first record of sealed to dst, which has room for MaxRecord bytes, and
	// returns the length of that record; 0 while it is not whole. Errors are final; io.EOF is the
	// other end's word that nothing follows.
	Open(dst, sealed []byte) (plain []byte, n int, err error)
}

// NewSecureStream wraps a connection whose two ends have agreed upon c. Received and Sent count what is
// on the wire.
func NewSecureStream(conn net.Conn, c Cipher) *Stream { return newStream(conn, c) }
