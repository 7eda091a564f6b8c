package datagram

import (
	"net"
	"net/netip"
	"sync"
)

// A Transport carries datagrams. Its Receive is called by one goroutine, Send by any.
//
// A carrier whose server may speak in answers only sends questions by itself, and its Send finds no room while there
// is none to answer: package polling. What else such a one has to say is in Taker and Prover.
type Transport interface {
	// Receive waits for datagrams and puts them into chunks: those of one sender that have the same length, but for the last
	// which may be shorter, stand back to back in one. It returns how many chunks it has set; one that is empty says that nobody is
	// where datagrams were sent. Its error is final, and becomes that of the connections.
	Receive(chunks []*Chunk) (int, error)
	// Send sends datagrams to an address. They stand back to back in b and have these lengths. It returns how many were
	// taken: as many as there is room for at once; all of them if it may wait, or fewer after a while, so that the caller may see whether they
	// are still to be sent. What can not be sent for another reason is lost, as on the way. Its error is final.
	Send(b []byte, lens []int, to Addr, wait bool) (int, error)
	// Max returns the length of the longest datagram to an address.
	Max(to Addr) int
	// Name returns an address as package net knows it, with the name of the carrier as its network.
	Name(a Addr) net.Addr
	// Local returns where the transport is.
	Local() net.Addr
	// Close makes all calls return.
	Close() error
}

// A Taker is a Transport that takes other datagrams than it sends: questions of DNS are shorter than answers.
type Taker interface {
	// Takes returns the length of the longest datagram that may come from an address.
	Takes(from Addr) int
}

// takes returns the length of the longest datagram that may come from an address.
func takes(t Transport, from Addr) int {
	if k, ok := t.(Taker); ok {
		return k.Takes(from)
	}
	return t.Max(from)
}

// A Prover is a Transport that keeps something of who is where, and has to know for whom that is worth it. Its methods must not wait.
type Prover interface {
	// Crowded tells whether nothing is kept of who is there, for there are too many: before it is let in it has to show a cookie.
	Crowded(a Addr) bool
	// Come says that a connection is made from there, or seems to have moved there. It is called once for each connection and address, before
	// anything but a retry is sent there.
	Come(a Addr)
	// Proven says that who has come has shown its key, and that it is there.
	Proven(a Addr)
	// Left says that one who has come has ended, or is somewhere else.
	Left(a Addr)
}

// A Single transport is that of one connection, which another carrier has made. It brings one datagram of at most 2 KiB at a time.
type Single interface {
	Transport
	Single()
}

// An Addr is where datagrams come from and go to.
type Addr struct {
	Remote netip.AddrPort
	Local  netip.Addr // ours that was spoken to: the answer has to come from there. Invalid: any
}

// Sizes of chunks: of one datagram, of a few, or of all that a read brings.
const (
	smallChunk  = 2 << 10
	mediumChunk = 16 << 10
	// LargeChunk is the size in bytes of the memory that a Transport reads into.
	LargeChunk = 64 << 10
)

// A Chunk is memory with datagrams of one sender. It belongs to who got it, and goes back by free.
type Chunk struct {
	From Addr
	Size int    // length of each datagram but the last
	Len  int    // of all, together
	Data []byte // the memory, as long as it is
}

var (
	smallChunks  = sync.Pool{New: func() any { return &Chunk{Data: make([]byte, smallChunk)} }}
	mediumChunks = sync.Pool{New: func() any { return &Chunk{Data: make([]byte, mediumChunk)} }}
	largeChunks  = sync.Pool{New: func() any { return &Chunk{Data: make([]byte, LargeChunk)} }}
)

// chunksOf returns the pool of chunks with room for n bytes.
func chunksOf(n int) *sync.Pool {
	switch {
	case n <= smallChunk:
		return &smallChunks
	case n <= mediumChunk:
		return &mediumChunks
	}
	return &largeChunks
}

// newChunk returns memory for n bytes.
func newChunk(n int) *Chunk { return chunksOf(n).Get().(*Chunk) }

func (c *Chunk) free() { chunksOf(len(c.Data)).Put(c) }

// part returns the datagrams from byte i to j in a chunk of their own.
func (c *Chunk) part(i, j int) *Chunk {
	p := newChunk(j - i)
	p.From, p.Size = c.From, c.Size
	p.Len = copy(p.Data, c.Data[i:j])
	return p
}

// next returns where the datagram ends that begins at byte i.
func (c *Chunk) next(i int) int { return min(i+c.Size, c.Len) }
