package datagram

import (
	"cmp"
	"encoding/binary"
	"sync"

	"ferry/internal/proto"
)

const (
	// maxBatch is how many datagrams are made before they are sent: what one call of the kernel cuts (UDP_MAX_SEGMENTS of old).
	maxBatch  = 64
	batchSize = 64 << 10
)

// A batch is datagrams back to back: first plain, with room for header and tag, then sealed.
type batch struct {
	buf   []byte
	lens  []int
	sent  int        // of lens
	from  int        // byte of the first that was not sent
	of    []sealedAs // of packets that flush has made; empty: none did
	nonce nonce

	// Of the datagram that is being filled:
	start int    // where it begins; -1: there is none
	next  uint64 // the number that its receiver gives to the next data item
	known bool   // next is
}

// A sealedAs says which packet it was.
type sealedAs struct {
	level  int
	number uint64
}

// batches: one get (Link.batch), one put (Link.giveBack).
var batches = sync.Pool{New: func() any {
	return &batch{buf: make([]byte, 0, batchSize), lens: make([]int, 0, maxBatch)}
}}

func (o *batch) reset() {
	o.buf, o.lens, o.of = o.buf[:0], o.lens[:0], o.of[:0]
	o.sent, o.from, o.start = 0, 0, -1
}

// A packer puts items into datagrams.
type packer struct {
	max    int    // length of the longest datagram
	joint  int    // length of the longest datagram with more than one item; 0: max
	number uint64 // of the next data item
}

// pack takes items from the start of run, as many as there is room for, and returns their length. Those that must not be lost
// go to keep, which returns false when it has no room. An item that no datagram takes is dropped and counted.
func (p *packer) pack(o *batch, run []byte, keep func(item []byte) bool) (n, dropped int) {
	for n < len(run) {
		item := run[n : n+proto.ItemLen(run[n:])]
		switch t := proto.TravelOf(item); t {
		case proto.TravelNumber:
			if number, err := proto.ParseNumber(item); err == nil {
				p.number = number
			}
		case proto.TravelSurely:
			if !keep(item) {
				return n, dropped
			}
		default:
			fits, full := p.put(o, item, t == proto.TravelCounted)
			if full {
				return n, dropped
			}
			if !fits {
				dropped++
			}
			if t == proto.TravelCounted {
				p.number++
			}
		}
		n += len(item)
	}
	return n, dropped
}

// put puts an item into the datagram that is being filled, or the next one.
func (p *packer) put(o *batch, item []byte, counted bool) (fits, full bool) {
	for {
		size := len(item)
		numbered := counted && (o.start < 0 || !o.known || o.next != p.number)
		if numbered {
			size += proto.NumberLen
		}
		if o.start >= 0 && len(o.buf)-o.start+size+tagLen > cmp.Or(p.joint, p.max) {
			o.finish()
			continue
		}
		if o.start < 0 {
			switch {
			case shortLen+size+tagLen > p.max:
				return false, false
			case o.full(p.max):
				return false, true
			}
			o.begin()
		}
		if numbered {
			o.buf = proto.AppendNumber(o.buf, p.number)
			o.known = true
		}
		if counted {
			o.next = p.number + 1
		}
		o.buf = append(o.buf, item...)
		return true, false
	}
}

// full tells that there is no room for another datagram of up to max bytes.
func (o *batch) full(max int) bool { return len(o.lens) == maxBatch || cap(o.buf)-len(o.buf) < max }

// begin begins a datagram.
func (o *batch) begin() {
	o.start = len(o.buf)
	o.known = false
	o.buf = o.buf[:o.start+shortLen]
}

// finish ends the datagram that is being filled.
func (o *batch) finish() {
	if o.start < 0 {
		return
	}
	o.buf = o.buf[:len(o.buf)+tagLen]
	o.lens = append(o.lens, len(o.buf)-o.start)
	o.start = -1
}

// seal encrypts all datagrams, whose numbers begin with number, for the end that knows the connection by id.
func (o *batch) seal(k *key, id, number uint64) {
	at := 0
	for _, n := range o.lens {
		p := o.buf[at : at+n-tagLen : at+n]
		binary.BigEndian.PutUint64(p, id)
		binary.BigEndian.PutUint64(p[idLen:], number)
		k.seal(&o.nonce, p, shortLen, number)
		number++
		at += n
	}
}

// left returns what was not sent yet.
func (o *batch) left() ([]byte, []int) { return o.buf[o.from:], o.lens[o.sent:] }

// took notes that n datagrams were sent, and returns their length.
func (o *batch) took(n int) (size int) {
	for _, l := range o.lens[o.sent : o.sent+n] {
		size += l
	}
	o.sent += n
	o.from += size
	return size
}

func (o *batch) empty() bool { return o.sent == len(o.lens) }
