package datagram

import (
	"encoding/binary"
	"net"
	"time"
)

// What is sent beside data: acks, streams, challenges; and the timer for what is not acknowledged.

// timeout is how long an ack may take. The caller holds mu.
func (l *Link) timeout(s *sending) time.Duration {
	t := firstTimeout
	if l.rtt > 0 {
		t = max(l.rtt+4*l.vary, minTimeout)
	}
	return min(t<<min(s.backoff, 8), maxTimeout)
}

// RoundTrip implements multipath.Hasty: nothing here looks at what the way carries. 0: it is not known.
func (l *Link) RoundTrip() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rtt
}

// measured takes a round trip: RFC 9002, section 5.3. The caller holds mu.
func (l *Link) measured(rtt time.Duration) {
	rtt = max(rtt, time.Microsecond)
	if l.rtt == 0 {
		l.rtt, l.vary = rtt, rtt/2
		return
	}
	l.vary = (3*l.vary + (l.rtt - rtt).Abs()) / 4
	l.rtt = (7*l.rtt + rtt) / 8
}

// acked takes an ack frame.
func (l *Link) acked(at int, a ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.levels[at].sending
	if rtt := s.acked(a, time.Now()); rtt >= 0 {
		l.measured(rtt)
	}
	l.flushDue = true // lost ones, or the timer
	notify(l.room)
}

// acknowledge says what has come of a stream.
func (l *Link) acknowledge(at int, number uint64) {
	a := l.levels[at].stream.ack(number)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.levels[at].ack, l.levels[at].ackDue = a, true
	l.flushDue = true
}

// challenged takes a challenge, or a response.
func (l *Link) challenged(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.kind == frameResponse {
		known := l.path.proven
		if l.path.answered(f.data); l.path.proven && !known {
			l.settled()
		}
		return
	}
	l.path.response, l.path.respond = [8]byte(f.data), true
	l.flushDue = true
}

// flush sends what is due of all that.
func (l *Link) flush() { l.say(nil) }

// say is flush, with a last frame, which goes by the highest level that there are keys for.
func (l *Link) say(last *frame) {
	o := batches.Get().(*batch)
	defer batches.Put(o)
	o.reset()
	var now time.Time
	for more := true; more && o.empty(); {
		now = time.Now()
		var to Addr
		to, more = l.composeAll(o, now, last)
		_ = l.put(o, to, false)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsent(o)
	l.arm(now, !o.empty())
}

// composeAll fills a batch. It tells whether there may be more.
func (l *Link) composeAll(o *batch, now time.Time, last *frame) (to Addr, more bool) {
	o.reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil && last == nil {
		return l.path.at, false
	}
	for at := range l.levels {
		for l.compose(o, at, now, nil) {
		}
	}
	if o.full(l.max) {
		return l.path.at, true
	}
	if last != nil {
		l.compose(o, l.top(), now, last)
	}
	return l.path.at, false
}

// unsent has segments sent again that were in packets which the transport had no room for. The caller holds mu.
func (l *Link) unsent(o *batch) {
	for _, of := range o.of[min(o.sent, len(o.of)):] {
		segments := l.levels[of.level].sending.segments
		for i := range segments {
			if segments[i].number == of.number {
				segments[i].lost = true
			}
		}
	}
}

// top returns the highest level that there are keys for. The caller holds mu.
func (l *Link) top() int {
	for at := levelData; at > 0; at-- {
		if l.levels[at].out.key != nil {
			return at
		}
	}
	return 0
}

// compose adds one packet of a level to the batch, if something is due. The caller holds mu.
func (l *Link) compose(o *batch, at int, now time.Time, last *frame) bool {
	v := &l.levels[at]
	timeout := l.timeout(&v.sending)
	if v.out.key == nil || o.full(l.max) || !l.due(at, now, timeout, last) {
		return false
	}
	k, err := v.out.at(v.number)
	if err != nil {
		return false
	}
	start := len(o.buf)
	header := l.header(o, at, v.number)
	limit := start + l.path.room(l.size(at)) - tagLen
	if !l.frame(o, at, limit, now, last) || v.sending.fill(o, limit, v.number, now, timeout) == 0 && len(o.buf) == start+header {
		o.buf = o.buf[:start]
		return false
	}
	if l.isClient && at == levelInitial && len(o.buf) < limit {
		from := len(o.buf)
		o.buf = o.buf[:limit]
		clear(o.buf[from:])
	}
	sealed := k.seal(&o.nonce, o.buf[start:], header, v.number)
	o.buf = o.buf[:start+len(sealed)]
	o.lens = append(o.lens, len(sealed))
	o.of = append(o.of, sealedAs{at, v.number})
	l.path.spend(len(sealed))
	v.number++
	return true
}

// frame appends all frames that are due but those of the stream, if there is room for them. The caller holds mu.
func (l *Link) frame(o *batch, at, limit int, now time.Time, last *frame) bool {
	v := &l.levels[at]
	from := len(o.buf)
	if v.ackDue {
		o.buf = appendFrame(o.buf, frame{kind: frameAck, ack: v.ack})
	}
	if at == levelData && l.path.respond {
		o.buf = appendFrame(o.buf, frame{kind: frameResponse, data: l.path.response[:]})
	}
	if at == levelData && l.path.ask {
		o.buf = appendFrame(o.buf, frame{kind: frameChallenge, data: l.path.challenge[:]})
	}
	probe := l.probe && at == l.top()
	if probe {
		o.buf = append(o.buf, framePing)
	}
	if last != nil {
		o.buf = appendFrame(o.buf, *last)
	}
	if len(o.buf) > limit {
		o.buf = o.buf[:from]
		return false
	}
	v.ackDue = false
	l.probe = l.probe && !probe
	if at == levelData {
		l.path.respond = false
		if l.path.ask {
			l.path.ask, l.path.asked = false, now
		}
	}
	return true
}

// size is how long a packet of a level may be.
func (l *Link) size(at int) int {
	if at == levelData {
		return l.max
	}
	return min(l.max, smallest)
}

// piece is how long a segment of a level may be, so that there is room for an ack beside it, if that leaves enough. The caller holds mu.
func (l *Link) piece(at int) int {
	n := l.size(at) - longLen - tagLen - streamHeader
	if at == levelInitial && l.cookie != nil {
		n -= cookieLen
	}
	const beside = ackHeader + 16*maxSpans
	if n >= 2*beside {
		n -= beside
	}
	return n
}

// due tells whether a level has something to send. The caller holds mu.
func (l *Link) due(at int, now time.Time, timeout time.Duration, last *frame) bool {
	v := &l.levels[at]
	return last != nil || v.ackDue || v.sending.due(now, timeout) != nil || l.probe && at == l.top() ||
		at == levelData && (l.path.ask || l.path.respond)
}

// header appends the header of a packet and returns its length. The caller holds mu.
func (l *Link) header(o *batch, at int, number uint64) int {
	from := len(o.buf)
	if at == levelData {
		o.buf = binary.BigEndian.AppendUint64(o.buf, l.peer)
		o.buf = binary.BigEndian.AppendUint64(o.buf, number)
		return shortLen
	}
	h := longHeader{kind: typeHandshake, id: l.client, number: number}
	if at == levelInitial {
		if h.kind = typeInitial; l.cookie != nil {
			h.kind, h.cookie = typeCookie, l.cookie
		}
	}
	o.buf = appendLong(o.buf, h)
	return len(o.buf) - from
}

// fill adds the segments that are due, up to limit, and returns how many.
func (s *sending) fill(o *batch, limit int, number uint64, now time.Time, timeout time.Duration) (n int) {
	for {
		g := s.due(now, timeout)
		if g == nil || len(o.buf)+streamHeader+len(g.data) > limit {
			return n
		}
		o.buf = appendFrame(o.buf, frame{kind: frameStream, offset: g.offset, data: g.data})
		g.times++
		g.lost, g.sent, g.number = false, now, number
		n++
	}
}

// put sends what is left of a batch.
func (l *Link) put(o *batch, to Addr, wait bool) error {
	if o.empty() {
		return nil
	}
	b, lens := o.left()
	n, err := l.e.t.Send(b, lens, to, wait)
	l.tally(&l.sent, o.took(n))
	return err
}

// arm sets the timer to when something is due: soon, if there was no room for what is. The caller holds mu.
func (l *Link) arm(now time.Time, soon bool) {
	var at time.Time
	if soon {
		at = now
	}
	for i := range l.levels {
		v := &l.levels[i]
		if v.out.key == nil {
			continue
		}
		if t := v.sending.deadline(l.timeout(&v.sending)); !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if at.IsZero() && l.isClient && !l.shaken {
		at = now.Add(l.timeout(&l.levels[levelInitial].sending))
	}
	if l.timer != nil && l.timer.Stop() {
		l.timers.Done()
	}
	if at.IsZero() || l.ended || l.err != nil {
		return
	}
	l.timers.Add(1)
	wait := max(at.Sub(now), minTimeout) // what is late may have to wait until it is allowed
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.fire)
	} else {
		l.timer.Reset(wait)
	}
}

// fire sends again what is due, or gives the connection up.
func (l *Link) fire() {
	defer l.timers.Done()
	if l.late(time.Now()) {
		l.fail(ErrSilent)
		return
	}
	l.flush()
}

// late tells whether the other end has been silent for too long.
func (l *Link) late(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := false
	for i := range l.levels {
		s := &l.levels[i].sending
		if len(s.segments) == 0 {
			continue
		}
		waiting = true
		if now.Sub(s.progress) > patience {
			return true
		}
		timeout := l.timeout(s)
		if g := s.due(now, timeout); g != nil && g.times > 0 && !g.lost {
			for i := range s.segments { // as of the timeout that was, for the next one is longer
				if h := &s.segments[i]; now.Sub(h.sent) >= timeout {
					h.lost = true
				}
			}
			s.backoff++
		}
	}
	if l.isClient && !l.shaken && !waiting {
		l.probe = true // the gateway may wait for bytes, before it may send more
	}
	return false
}

// fail ends the connection. The first error counts.
func (l *Link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.done)
	}
}

// failure returns the error that has ended the connection.
func (l *Link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Owes tells whether the other end has not acknowledged all that must not be lost.
func (l *Link) Owes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil && len(l.levels[levelData].sending.segments) > 0
}

// Close ends the connection; pending calls return an error. What the other end has not acknowledged goes to it once more,
// with the word that nothing follows. It is idempotent.
func (l *Link) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.ended = true
		alive := l.err == nil
		for i := range l.levels {
			l.levels[i].sending.again()
		}
		l.mu.Unlock()
		if alive && l.levelsReady() {
			l.say(&frame{kind: frameClose})
		}
		l.fail(net.ErrClosed)
		l.mu.Lock()
		if l.timer != nil && l.timer.Stop() {
			l.timers.Done()
		}
		l.mu.Unlock()
		l.timers.Wait()
		l.e.remove(l)
	})
	return nil
}

// levelsReady tells whether there are keys to say anything.
func (l *Link) levelsReady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.levels[l.top()].out.key != nil
}
