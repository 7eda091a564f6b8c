package netstack

// segmentCost is what the stack takes for a segment beside its bytes, about: it has one for each write, until it is acknowledged.
const segmentCost = 1 << 10

// A generation is what was written to a client lately. Writes of a few bytes take far more memory than they have bytes, so at most two generations of them wait:
// one begins when all is acknowledged that is older than the one before. Meanwhile what comes waits in the socket, and is one write then. So a stream of short
// messages goes out at once as long as it is acknowledged, without what the algorithm of Nagle would cost it (RFC 9293, section 3.7.4).
type generation struct {
	bytes, short int  // how many, and how many writes had less than segmentCost
	before       int  // how many such the generation before had
	full         bool // the stack takes nothing until that is acknowledged
}

// bound makes the stack take nothing while too many short writes wait. It is called before each write; the caller holds mu.
func (w *windows) bound() {
	g := &w.written
	if w.m == nil || g.full || g.short < max(2, w.send/2/segmentCost) {
		return
	}
	if g.bytes >= w.send { // what is older has gone, or there would be no room for these
		*g = generation{before: g.short}
		return
	}
	g.full = true
	w.in.SocketOptions().SetSendBufferSize(int64(g.bytes)+1, false)
}

// isBound is bound, and tells whether the stack takes nothing.
func (w *windows) isBound() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bound()
	return w.written.full
}

// wrote notes that the stack has taken n bytes.
func (w *windows) wrote(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := &w.written
	if g.full && n > 0 {
		*g = generation{before: g.short}
		w.size(w.send)
	}
	if g.bytes += n; n > 0 && n < segmentCost {
		g.short++
	}
}

// segments returns how many bytes the stack takes for short writes that wait, beside theirs, at most. The caller holds mu, and the stack is not full.
func (w *windows) segments() int {
	g := &w.written
	if g.before+g.short == 0 {
		return 0
	}
	w.in.SocketOptions().SetSendBufferSize(1, false)
	waits := w.isFull()
	w.size(w.send)
	if !waits {
		*g = generation{}
	}
	return (g.before + g.short) * segmentCost
}
