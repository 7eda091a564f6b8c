package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"time"
)

const (
	frameRoom = 2048 // bytes for a frame
	frames    = 8192 // under way at most
	ethernet  = 14   // bytes of a frame before its IP packet
	// overtaken is how long a reordered frame is held back.
	overtaken = 5 * time.Millisecond
	// DefaultQueue is how long a frame may wait for the rate unless the queue has a size, and leastQueue a size for low rates.
	DefaultQueue = 50 * time.Millisecond
	leastQueue   = 15000
)

// A line decides what becomes of frames in one direction. It does no I/O and reads no clock: frames and the time go in,
// frames and the next deadline come out. It belongs to one goroutine.
//
//	room -> take: mtu, drop, loss, corrupt, rate and queue, delay and jitter, reorder, duplicate -> heap -> due
//
// Time is since any moment, the same one for all calls.
type line struct {
	faults  Faults
	plugged bool
	random  *rand.Rand
	stats   Stats

	memory  []byte // frames rooms
	free    []int32
	in      int32 // the room that the next frame is read into
	waiting []waiting
	count   uint64        // frames that were put into waiting
	idle    time.Duration // when the last frame has gone out at the rate
	last    time.Duration // when the frame that all later ones wait for is due
}

// A waiting frame is one of a heap, the one that is due first on top.
type waiting struct {
	due   time.Duration
	order uint64
	room  int32
	size  int32
}

func (a waiting) before(b waiting) bool {
	return a.due < b.due || a.due == b.due && a.order < b.order
}

func newLine(seed uint64) *line {
	l := &line{
		plugged: true, random: rand.New(rand.NewPCG(seed, 0)),
		memory: make([]byte, frames*frameRoom), free: make([]int32, 0, frames), waiting: make([]waiting, 0, frames),
	}
	for i := range int32(frames - 1) { // the last one is in
		l.free = append(l.free, frames-2-i)
	}
	l.in = frames - 1
	return l
}

func (l *line) frame(room, size int32) []byte {
	at := int(room) * frameRoom
	return l.memory[at : at+int(size) : at+frameRoom]
}

// room is where the next frame is to be read to.
func (l *line) room() []byte { return l.frame(l.in, frameRoom) }

// take treats the frame of size bytes that is in room.
func (l *line) take(now time.Duration, size int) {
	l.stats.Sent++
	f, frame := &l.faults, l.frame(l.in, int32(size))
	switch {
	case !l.plugged:
		l.stats.Cut++
		return
	case f.MTU > 0 && size > ethernet+f.MTU:
		l.stats.Large++
		return
	case f.Drop&kindOf(frame) != 0:
		l.stats.Dropped++
		return
	case l.chance(f.Loss):
		l.stats.Lost++
		return
	}
	out, ok := l.pass(now, size)
	if !ok || len(l.free) == 0 {
		l.stats.Queue++
		return
	}
	if l.chance(f.Corrupt) && size > ethernet {
		frame[ethernet+l.random.IntN(size-ethernet)] ^= 1 << l.random.IntN(8)
		l.stats.Damaged++
	}
	due := l.arrival(out)
	if l.chance(f.Duplicate) && len(l.free) > 1 {
		again := l.takeFree()
		copy(l.frame(again, int32(size)), frame)
		l.push(waiting{due: due, room: again, size: int32(size)})
		l.stats.Doubled++
	}
	l.push(waiting{due: due, room: l.in, size: int32(size)})
	l.in = l.takeFree()
}

// chance is true for a share of the calls.
func (l *line) chance(s Share) bool { return s > 0 && Share(l.random.IntN(whole)) < s }

// pass returns when a frame has gone out at the rate, unless there is no room in the queue before it.
func (l *line) pass(now time.Duration, size int) (out time.Duration, ok bool) {
	rate := l.faults.Rate
	if rate == 0 {
		return now, true
	}
	limit := l.faults.Queue
	if limit == 0 {
		limit = max(int(rate/8*int64(DefaultQueue)/int64(time.Second)), leastQueue)
	}
	start := max(now, l.idle)
	queued := (start - now).Seconds() * float64(rate) / 8
	if int(queued)+size > limit {
		return 0, false
	}
	l.idle = start + time.Duration(int64(size)*8*int64(time.Second)/rate)
	return l.idle, true
}

// arrival returns when a frame that has gone out comes out at the other end: not before those ahead of it, unless they
// are held back.
func (l *line) arrival(out time.Duration) time.Duration {
	f := &l.faults
	due := out + f.Delay
	if f.Jitter > 0 {
		due = max(due-f.Jitter+time.Duration(l.random.Int64N(int64(2*f.Jitter))), out)
	}
	due = max(due, l.last)
	if l.chance(f.Reorder) {
		l.stats.Reordered++
		return due + overtaken
	}
	l.last = due
	return due
}

func (l *line) takeFree() int32 {
	room := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	return room
}

// push puts a frame into the heap.
func (l *line) push(w waiting) {
	w.order = l.count
	l.count++
	l.waiting = append(l.waiting, w)
	h := l.waiting
	for i := len(h) - 1; i > 0; {
		above := (i - 1) / 2
		if !h[i].before(h[above]) {
			break
		}
		h[i], h[above] = h[above], h[i]
		i = above
	}
}

// due returns the first frame if its time has come, else nil. After it call delivered.
func (l *line) due(now time.Duration) []byte {
	if len(l.waiting) == 0 || l.waiting[0].due > now {
		return nil
	}
	return l.frame(l.waiting[0].room, l.waiting[0].size)
}

// delivered takes the first frame out of the heap.
func (l *line) delivered() {
	l.stats.Delivered++
	h := l.waiting
	l.free = append(l.free, h[0].room)
	end := len(h) - 1
	h[0] = h[end]
	h = h[:end]
	l.waiting = h
	for i := 0; ; {
		least := i
		for below := 2*i + 1; below <= 2*i+2 && below < end; below++ {
			if h[below].before(h[least]) {
				least = below
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// next returns when due has to be called.
func (l *line) next() (time.Duration, bool) {
	if len(l.waiting) == 0 {
		return 0, false
	}
	return l.waiting[0].due, true
}

// cut loses all that is under way.
func (l *line) cut() {
	l.stats.Cut += uint64(len(l.waiting))
	for _, w := range l.waiting {
		l.free = append(l.free, w.room)
	}
	l.waiting, l.idle, l.last = l.waiting[:0], 0, 0
}

const (
	typeIPv4, typeARP, typeIPv6               = 0x0800, 0x0806, 0x86dd
	protoICMP, protoTCP, protoUDP, protoICMP6 = 1, 6, 17, 58
)

// kindOf tells what is in a frame. Of IPv6 only the first header counts.
func kindOf(frame []byte) Kind {
	if len(frame) < ethernet+20 {
		return Other
	}
	var protocol byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		return ARP
	case typeIPv4:
		protocol = frame[ethernet+9]
	case typeIPv6:
		protocol = frame[ethernet+6]
	default:
		return Other
	}
	switch protocol {
	case protoTCP:
		return TCP
	case protoUDP:
		return UDP
	case protoICMP, protoICMP6:
		return ICMP
	}
	return OtherIP
}
