package router

import (
	"math"
	"sync"
	"sync/atomic"

	"ferry/internal/buffer"
	"ferry/internal/packet"
	"ferry/internal/proto"
)

// A Bounded is a Sender which says how much it takes.
type Bounded interface {
	Sender
	// Room returns how many bytes Send takes now without much delay, and how many more may wait before it.
	Room() (now, later int)
}

// A Fair stands before a Sender that may be slow. What would wait in there for long waits here instead, where nothing has a number yet, in two
// lanes: short packets of a flow of which little waits overtake the others. So a ping, a name, a key that was pressed pass a download. (Sparse flows
// come first in RFC 8290, too; flows that are not are one queue here.)
//
//	Send --+--- nothing waits, and there is room ------------------------+--> Sender --> Queue --> stream
//	       |                                                             |                 |
//	       +--> ahead: a few short packets of a flow --+--> Refill, Next +                 |
//	       +--> rest:  all others, in order -----------+                 ^--- OnRoom ------+
//
// While a stream is fast, there is always room, and nothing is looked at here.
type Fair struct {
	to     Bounded
	budget *buffer.Budget
	count  *Counters // of what was taken here, and not there

	waits atomic.Int64 // bytes in lanes, and in Send of who refills

	mu          sync.Mutex // guards what follows
	ahead, rest lane
	flows       *[flowCount]waiting // by the hash of the flow; nil: nothing waits
	spent       int                 // bytes that went ahead since the last piece of rest
	busy        bool                // somebody refills
	anew        bool                // he has to look once more
	last        bool                // nothing comes behind what waits
	closed      bool
}

// A waiting says what of a flow is in lanes.
type waiting struct {
	ahead uint16 // bytes
	rest  uint16 // items; what comes behind them must not overtake them
}

const (
	flowCount = 256
	// flowAhead is how many bytes of a flow overtake others at once: more than one packet, or those of a ping would all wait behind a download from
	// the first loss on that delays one for longer than the next is away. aheadBytes is how many may between two pieces of the others.
	flowAhead  = 2 << 10
	aheadBytes = 8 << 10
	// manyBytes is what a lane has that gets large blocks: with them it is emptied sooner when the stream is slow no more.
	manyBytes = 16 << 10
	// pieceBytes is how much is handed on before it is looked whether something is to go ahead, unless one item has more.
	pieceBytes = 2 << 10
)

// flowTables are those of all Fairs. One get (Fair.push), one put (Fair.pop): only where something waits there is one.
var flowTables = sync.Pool{New: func() any { return new([flowCount]waiting) }}

// NewFair returns a Fair before a Sender. Next is called by who makes room in its queue, and Refill where there is more for another cause. Its memory is of a budget; count is where it notes what is lost.
func NewFair(to Bounded, budget *buffer.Budget, count *Counters) *Fair {
	return &Fair{to: to, budget: budget, count: count}
}

// Send implements Sender. The run has data items only.
func (f *Fair) Send(run []byte) (int, Reason) {
	if f.waits.Load() == 0 {
		now, _ := f.to.Room()
		if len(run) <= now {
			return f.to.Send(run)
		}
		n := proto.WholeItems(run, now)
		if n > 0 {
			if dropped, why := f.to.Send(run[:n]); dropped > 0 {
				return dropped + proto.CountItems(run[n:]), why
			}
			run = run[n:]
		}
	}
	dropped, why := f.wait(run)
	f.Refill()
	return dropped, why
}

// wait puts items into lanes, as far as there is room.
func (f *Fair) wait(run []byte) (dropped int, why Reason) {
	_, later := f.to.Room()
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(run) > 0 {
		item := run[:proto.ItemLen(run)]
		run = run[len(item):]
		if reason := f.push(item, later); reason != None {
			dropped, why = dropped+1, reason
		}
	}
	return dropped, why
}

// push puts an item into its lane. The caller holds mu.
func (f *Fair) push(item []byte, limit int) Reason {
	if f.closed {
		return DropClosed
	}
	if f.ahead.bytes+f.rest.bytes+len(item) > f.budget.Share() {
		return DropMemory
	}
	if f.flows == nil {
		f.flows = flowTables.Get().(*[flowCount]waiting)
	}
	flow := &f.flows[flowOf(item)]
	switch {
	case flow.rest == 0 && int(flow.ahead)+len(item) <= flowAhead && f.spent+len(item) <= aheadBytes:
		flow.ahead += uint16(len(item))
		f.spent += len(item)
		f.ahead.push(item, f.budget)
	case f.rest.bytes > 0 && f.rest.bytes+len(item) > limit:
		return DropQueueFull
	default:
		flow.rest++
		f.rest.push(item, f.budget)
	}
	f.waits.Add(int64(len(item)))
	return None
}

// Refill hands on what waits, as far as there is room. It does not wait itself.
func (f *Fair) Refill() { f.refill(math.MaxInt64) }

// Next is Refill for who makes room in the Sender, and calls it again when he has taken what it handed on: that is no more than waits now.
func (f *Fair) Next() { f.refill(f.waits.Load()) }

// Flush hands on all that waits, whether or not there is room: nothing comes behind it.
func (f *Fair) Flush() {
	f.mu.Lock()
	f.last = true
	f.mu.Unlock()
	f.Refill()
}

// refill hands on what waits, as far as there is room, and about most bytes of it.
func (f *Fair) refill(most int64) {
	if f.waits.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.anew = true; f.busy {
		return
	}
	f.busy = true
	for f.anew {
		f.anew = false
		for most > 0 {
			n := f.piece()
			if n == 0 {
				break
			}
			most -= int64(n)
			f.anew = most > 0
		}
	}
	f.busy = false
	if f.closed {
		f.clear()
	}
}

// piece hands on a piece of a lane, if there is one, and room for it, and returns its length. The caller holds mu, and is busy.
func (f *Fair) piece() int {
	from := &f.ahead
	if from.bytes == 0 {
		from = &f.rest
	}
	now, _ := f.to.Room()
	if f.last {
		now = math.MaxInt
	}
	if from.bytes == 0 || now == 0 {
		return 0
	}
	b := from.first()
	if now < math.MaxInt { // slow: soon somebody may go ahead
		b = b[:max(proto.WholeItems(b, min(now, pieceBytes)), proto.ItemLen(b))]
	}
	if from == &f.rest || f.rest.bytes == 0 {
		f.spent = 0
	}
	f.mu.Unlock()
	if dropped, why := f.to.Send(b); dropped > 0 && f.count != nil {
		f.count.drop(why, dropped)
	}
	f.mu.Lock()
	f.pop(from, b)
	return len(b)
}

// pop takes off what was handed on. The caller holds mu.
func (f *Fair) pop(from *lane, b []byte) {
	f.waits.Add(int64(-len(b)))
	for i := 0; i < len(b); {
		n := proto.ItemLen(b[i:])
		flow := &f.flows[flowOf(b[i:i+n])]
		if from == &f.ahead {
			flow.ahead -= uint16(n)
		} else {
			flow.rest--
		}
		i += n
	}
	from.pop(len(b), f.budget)
	if f.ahead.bytes == 0 && f.rest.bytes == 0 {
		flowTables.Put(f.flows)
		f.flows = nil
	}
}

// Queued returns how many bytes wait here.
func (f *Fair) Queued() int { return int(f.waits.Load()) }

// Close gives all memory back; what waits is lost. It may be called more than once.
func (f *Fair) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed = true; !f.busy {
		f.clear()
	}
}

// clear drops what waits. The caller holds mu, and nobody refills.
func (f *Fair) clear() {
	for _, l := range []*lane{&f.ahead, &f.rest} {
		for l.bytes > 0 {
			f.pop(l, l.first())
		}
	}
}

func flowOf(item []byte) uint32 {
	ip := item
	if proto.IsFrame(item) {
		ip = item[proto.DataHeaderLen:]
	}
	return packet.FlowHash(ip) >> 24
}

// A lane has items in the order in which they came. None lies in two blocks.
type lane struct {
	blocks []*buffer.Block
	off    int // bytes of the first block that are gone
	bytes  int
}

func (l *lane) push(item []byte, budget *buffer.Budget) {
	l.bytes += len(item)
	if n := len(l.blocks); n > 0 && l.blocks[n-1].Room() >= len(item) {
		l.blocks[n-1].Append(item)
		return
	}
	n := len(item)
	if l.bytes > manyBytes {
		n = manyBytes
	}
	b := budget.New(max(n, len(item)))
	b.Append(item)
	l.blocks = append(l.blocks, b)
}

// first returns items at the front, one or more.
func (l *lane) first() []byte { return l.blocks[0].Bytes()[l.off:] }

// pop takes n bytes of first off.
func (l *lane) pop(n int, budget *buffer.Budget) {
	l.bytes -= n
	if l.off += n; l.off == l.blocks[0].Len() {
		budget.Free(l.blocks[0])
		l.blocks, l.off = l.blocks[1:], 0
	}
}
