package carrier

import (
	"net"
	"time"
)

// A Link is one connection of a carrier, as sessions use it. Stream is the one over ordered bytes. One goroutine reads, one
// writes at a time; Close may be called by anybody and ends both.
type Link interface {
	// Fill, Consume and Release are those of Stream.
	Fill() (buf []byte, start, end int, err error)
	Consume(n int)
	Release()
	// TryWrite, Write and Held are those of Stream.
	TryWrite(b []byte) (int, error)
	Write(b []byte, progress func()) error
	Held() int
	// Grain is that of Stream.
	Grain() int

	RemoteAddr() net.Addr
	Received() uint64 // bytes
	Sent() uint64     // bytes
	LastReceived() time.Time
	LastSent() time.Time
	Close() error
	// Max is the length in bytes of the longest item that the link carries, as each call of TryWrite and Write has nothing
	// but whole items then; 0: it carries a stream of bytes, and items of any length.
	Max() int
}

// A Limiter is a Link of datagrams which puts several items into one.
type Limiter interface {
	// Limit says that no datagram with more than one item has more bytes of them than max; 0: as many as fit.
	Limit(max int)
}

var _ Link = (*Stream)(nil)
