package polling

import "ferry/internal/carrier/datagram"

// chunks are what Receive puts datagrams into: those of one sender that have the same length stand together.
type chunks struct {
	all []*datagram.Chunk
	n   int  // of them are in use
	end bool // the last one is complete: it ends with a shorter datagram
}

// add returns false when there is no room.
func (c *chunks) add(from datagram.Addr, p []byte) bool {
	if c.n > 0 && !c.end {
		k := c.all[c.n-1]
		if k.From == from && len(p) <= k.Size && k.Len+len(p) <= len(k.Data) {
			k.Len += copy(k.Data[k.Len:], p)
			c.end = len(p) < k.Size
			return true
		}
	}
	if c.n == len(c.all) {
		return false
	}
	k := c.all[c.n]
	k.From, k.Size = from, len(p)
	k.Len = copy(k.Data, p)
	c.n, c.end = c.n+1, false
	return true
}

// nobody says that nobody is where questions were sent.
func (c *chunks) nobody() bool {
	if c.n == len(c.all) {
		return false
	}
	c.all[c.n].Len = 0
	c.n, c.end = c.n+1, true
	return true
}

// aside are datagrams that wait for questions, or for room to ask.
type aside struct {
	bytes []byte
	lens  []int
}

// add takes as many datagrams as there is room for, and returns how many.
func (a *aside) add(b []byte, lens []int, most int) (n int) {
	for _, l := range lens {
		if len(a.lens) == maxAside || len(a.bytes)+l > most {
			break
		}
		a.bytes, a.lens = append(a.bytes, b[:l]...), append(a.lens, l)
		b = b[l:]
		n++
	}
	return n
}

// drop removes the first n datagrams.
func (a *aside) drop(n int) {
	size := 0
	for _, l := range a.lens[:n] {
		size += l
	}
	a.bytes = append(a.bytes[:0], a.bytes[size:]...)
	a.lens = append(a.lens[:0], a.lens[n:]...)
	if len(a.lens) == 0 {
		*a = aside{}
	}
}

// sum returns how many bytes datagrams of these lengths have.
func sum(lens []int) (n int) {
	for _, l := range lens {
		n += l
	}
	return n
}
