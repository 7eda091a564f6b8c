package connectip

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Types of capsules: RFC 9297, section 3.5; RFC 9484, section 4.7; and ours.
const (
	capsuleDatagram = 0
	capsuleAssign   = 1
	capsuleRequest  = 2
	capsuleRoutes   = 3
	capsuleStream   = 0x20020002
)

// Contexts of datagrams: whole IP packets (RFC 9484, section 6), and packets of package datagram. Even numbers are the client's
// to give.
const (
	contextIP    = 0
	contextFerry = 2
)

const (
	maxCapsuleHeader = 16
	// maxAddresses is how long a capsule of addresses may be, bytes.
	maxAddresses = 1 << 10
	// maxPacket is the longest IP packet.
	maxPacket = 1<<16 - 1
)

// errCapsule ends a stream: nobody can tell what follows.
var errCapsule = errors.New("a malformed capsule")

// appendCapsuleHeader appends what is before the n bytes of a capsule's value.
func appendCapsuleHeader(b []byte, kind uint64, n int) []byte {
	return appendVarint(appendVarint(b, kind), uint64(n))
}

// A capsuleReader takes capsules off a stream: next, and then value or skip.
type capsuleReader struct {
	br   *bufio.Reader
	left uint64 // of the value
}

// next returns the type of the next capsule and the length of its value, and passes over what was not read of the one before.
// The error is io.EOF between two capsules only.
func (c *capsuleReader) next() (kind, n uint64, err error) {
	if err := c.skip(); err != nil {
		return 0, 0, err
	}
	if kind, err = c.varint(); err != nil {
		return 0, 0, err
	}
	if n, err = c.varint(); err != nil {
		return 0, 0, noEOF(err)
	}
	c.left = n
	return kind, n, nil
}

func (c *capsuleReader) varint() (uint64, error) {
	first, err := c.br.Peek(1)
	if err != nil {
		return 0, err
	}
	b, err := c.br.Peek(1 << (first[0] >> 6))
	if err != nil {
		return 0, noEOF(err)
	}
	v, n := consumeVarint(b)
	_, err = c.br.Discard(n)
	return v, err
}

// skip passes over the rest of a value. It reads into what memory there is.
func (c *capsuleReader) skip() error {
	for c.left > 0 {
		n, err := c.br.Discard(int(min(c.left, 1<<20)))
		c.left -= uint64(n)
		if err != nil {
			return noEOF(err)
		}
	}
	return nil
}

// value appends the rest of a value, of at most max bytes. Memory grows with what has come, not with what was claimed.
func (c *capsuleReader) value(b []byte, max int) ([]byte, error) {
	if c.left > uint64(max) {
		return b, fmt.Errorf("%w: %d bytes", errCapsule, c.left)
	}
	for c.left > 0 {
		if _, err := c.br.Peek(1); err != nil {
			return b, noEOF(err)
		}
		part, _ := c.br.Peek(int(min(c.left, uint64(c.br.Buffered()))))
		b = append(b, part...)
		n, _ := c.br.Discard(len(part))
		c.left -= uint64(n)
	}
	return b, nil
}

// noEOF is for an end in the middle of something.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
