package quic

import (
	"sync"

	"ferry/internal/proto"
)

const (
	// A batch has room for a frame of the greatest length in fragments, with packets of the smallest size.
	batchSize      = 72 << 10
	batchDatagrams = 64
	// leastLimit is what a link must be able to put into a datagram.
	leastLimit = packetSize - overhead
)

// lastWords tells whether nothing follows an item of a kind.
func lastWords(k proto.Kind) bool { return k == proto.KindGoodbye || k == proto.KindJoined }

// A batch is a row of datagrams; the last one may still grow.
type batch struct {
	data     [batchSize]byte
	end      [batchDatagrams]int // of each datagram in data
	n        int                 // datagrams
	numbered bool                // the last one begins with a number frame,
	next     uint64              // and the data item that follows would get this number
}

// batches has the memory for what is to be sent. One get (newBatch), one put (batch.free).
var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch() *batch {
	b := batches.Get().(*batch)
	b.n, b.numbered = 0, false
	return b
}

func (b *batch) free() { batches.Put(b) }

func (b *batch) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.end[i-1]
}

// datagram returns the i-th one.
func (b *batch) datagram(i int) []byte { return b.data[b.start(i):b.end[i]] }

// fits tells whether the last datagram takes n bytes more, of up to limit.
func (b *batch) fits(n, limit int) bool {
	return b.n > 0 && len(b.datagram(b.n-1))+n <= limit && b.end[b.n-1]+n <= batchSize
}

// begin makes an empty datagram the last one, if there is room for n bytes of it.
func (b *batch) begin(n int) bool {
	at := b.start(b.n)
	if b.n == batchDatagrams || at+n > batchSize {
		return false
	}
	b.end[b.n], b.numbered = at, false
	b.n++
	return true
}

func (b *batch) append(item []byte) {
	b.end[b.n-1] += copy(b.data[b.end[b.n-1]:], item)
}

// add adds an item that is not counted.
func (b *batch) add(item []byte, limit int) bool {
	if !b.fits(len(item), limit) && !b.begin(len(item)) {
		return false
	}
	b.append(item)
	return true
}

// addData adds the data item of a number, which is not longer than limit together with a number frame.
func (b *batch) addData(item []byte, number uint64, limit int) bool {
	n := len(item)
	if !b.numbered || b.next != number {
		n += proto.NumberLen
	}
	if !b.fits(n, limit) && !b.begin(len(item)+proto.NumberLen) {
		return false
	}
	if !b.numbered || b.next != number {
		b.count(number)
	}
	b.append(item)
	b.next = number + 1
	return true
}

// count puts a number frame where the next data item follows: the first one to the start of the datagram.
func (b *batch) count(number uint64) {
	var frame [proto.NumberLen]byte
	proto.AppendNumber(frame[:0], number)
	if b.numbered {
		b.append(frame[:])
		return
	}
	start, end := b.start(b.n-1), b.end[b.n-1]
	copy(b.data[start+proto.NumberLen:], b.data[start:end])
	copy(b.data[start:], frame[:])
	b.end[b.n-1] += proto.NumberLen
	b.numbered = true
}

// addParts adds a part of a data item in smaller ones; all of them, or none when there is no room.
func (b *batch) addParts(f proto.FragmentMessage, limit int) bool {
	size := limit - proto.FragmentOverhead
	parts := (len(f.Part) + size - 1) / size
	if b.n+parts > batchDatagrams || b.start(b.n)+len(f.Part)+parts*proto.FragmentOverhead > batchSize {
		return false
	}
	for part := f.Part; len(part) > 0; part = part[len(f.Part):] {
		f.Part = part[:min(len(part), size)]
		b.begin(len(f.Part) + proto.FragmentOverhead)
		end := &b.end[b.n-1]
		*end += len(proto.AppendFragment(b.data[*end:*end], f))
		f.Offset += len(f.Part)
	}
	return true
}

// A packer makes datagrams of items.
type packer struct {
	framer  proto.Framer
	limit   int    // of the length of a datagram; at least leastLimit
	next    uint64 // number of the next data item
	batch   *batch // nil: empty
	dropped uint64 // items: too long, and not to be sent in parts
}

// put takes an item, of a kind that does not go on the stream. It returns false when there is no room.
func (p *packer) put(k proto.Kind, item []byte) bool {
	if k == proto.KindNumber {
		if n, err := proto.ParseNumber(item); err == nil {
			p.next = n
		}
		return true
	}
	if p.batch == nil {
		p.batch = newBatch()
	}
	switch {
	case k.Travel() == proto.TravelCounted:
		return p.putData(item)
	case len(item) <= p.limit:
		return p.batch.add(item, p.limit)
	case k == proto.KindFragment:
		if f, err := proto.ParseFragment(item); err == nil {
			return p.batch.addParts(f, p.limit)
		}
	}
	p.dropped++
	return true
}

func (p *packer) putData(item []byte) (ok bool) {
	if proto.NumberLen+len(item) <= p.limit {
		ok = p.batch.addData(item, p.next, p.limit)
	} else {
		ok = p.batch.addParts(proto.FragmentMessage{Number: p.next, Len: len(item), Part: item}, p.limit)
	}
	if ok {
		p.next++
	}
	return ok
}

// wholeItems returns the length of the items at the start of a datagram that belong into one: what follows is nothing
// that this version sends.
func wholeItems(f proto.Framer, d []byte) (n int) {
	for numbered := false; n < len(d); {
		k, size, err := f.Next(d[n:])
		if err != nil || size == 0 || k.Travel() == proto.TravelSurely || k.Travel() == proto.TravelCounted && !numbered {
			break
		}
		numbered = numbered || k == proto.KindNumber
		n += size
	}
	return n
}
