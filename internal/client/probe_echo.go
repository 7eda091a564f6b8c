package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

const (
	smallPings   = 20
	smallSize    = proto.FrameHeaderLen + 8 // a token and nothing else
	pingInterval = 20 * time.Millisecond
	// firstTries is how often the first ping is sent, by a carrier of datagrams; each has firstTime to come back.
	firstTries = 3
	firstTime  = time.Second
	// Three datagrams of a size are lost by chance where one in two is; what TCP has lost comes again after 200 ms and more.
	sizeTries    = 3
	datagramTime = 300 * time.Millisecond
	streamTime   = 1500 * time.Millisecond

	fillTime = 500 * time.Millisecond
	// steadyTime is how much of it goes by before anything is counted: a carrier begins slowly.
	steadyTime = 250 * time.Millisecond
	// idleTime without an answer, or four round trips, and all datagrams that are under way are lost.
	idleTime = 50 * time.Millisecond
	// How many pings are under way: the gateway would hold up who sends faster than it reads.
	leastWindow = 16
	mostWindow  = 1024
)

// probeSizes are the lengths of pings that are tried, with their headers, as they are on the carrier.
var probeSizes = []int{576, 1000, 1280, 1400}

// Why there is nothing to be measured.
var (
	errEcho = errors.New("connected, but nothing comes back: is it a gateway?")
	errLate = errors.New("not in time")
)

// An answer is a ping that has come back.
type answer struct {
	token uint64
	at    time.Time
}

// echoes are pings that go out by a link and come back. All of it belongs to the goroutine that measures, but for read's.
type echoes struct {
	link    carrier.Link
	plain   bool                // there are keepalives only
	ordered bool                // nothing is lost, and everything waits for what comes late
	payload [proto.MaxPing]byte // of the next ping: its token and zeros
	buf     []byte
	next    uint64               // token of the next ping
	highest uint64               // token of the last one that came back, and the one behind it
	sent    map[uint64]time.Time // those that did not come back yet
	least   time.Duration        // round trip; 0: none was measured
	stuck   int                  // the size that did not come back; 0: none

	back   chan answer   // sent to by read; there is room for all that may be under way
	ended  chan struct{} // closed by read
	err    error         // set before ended is closed
	closed chan struct{} // closed by close
	stop   func() bool   // of what closes the link when ctx is done
}

func newEchoes(ctx context.Context, l carrier.Link, plain bool) *echoes {
	x := &echoes{
		link: l, plain: plain, ordered: l.Max() == 0, sent: map[uint64]time.Time{},
		back: make(chan answer, mostWindow), ended: make(chan struct{}), closed: make(chan struct{}),
	}
	x.stop = context.AfterFunc(ctx, func() {
		late := time.NewTimer(probeLinger)
		defer late.Stop()
		select {
		case <-late.C: // somebody waits in Write
			_ = l.Close()
		case <-x.closed:
		}
	})
	go x.read() // until the link is closed; close waits for it
	return x
}

// close closes the link when all has come back, or nothing more will.
func (x *echoes) close(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	if x.ordered && x.stuck == 0 {
		late := time.NewTimer(probeLinger)
		defer late.Stop()
		for len(x.sent) > 0 {
			if _, err := x.await(ctx, late.C); err != nil {
				break
			}
		}
	}
	x.stop()
	close(x.closed)
	_ = x.link.Close()
	<-x.ended
}

// read hands on what comes back.
func (x *echoes) read() {
	defer close(x.ended)
	defer x.link.Release()
	x.err = x.items()
}

func (x *echoes) items() error {
	framer := proto.Framer{FromServer: true, Extended: true}
	for keepalives := uint64(0); ; {
		buf, start, end, err := x.link.Fill()
		if err != nil {
			return err
		}
		now, i := time.Now(), start
		for i < end {
			kind, n, err := framer.Next(buf[i:end])
			if err != nil {
				return fmt.Errorf("from the gateway: %w", err)
			}
			if n == 0 {
				break
			}
			a, known, err := echoOf(kind, buf[i:i+n])
			if err != nil {
				return err
			}
			if kind == proto.KindKeepalive { // these have no token, and come in order
				a.token = keepalives
				keepalives++
			}
			if a.at = now; known {
				select {
				case x.back <- a:
				case <-x.closed:
				}
			}
			i += n
		}
		x.link.Consume(i - start)
	}
}

// echoOf reads what may be an answer. A goodbye is an error.
func echoOf(kind proto.Kind, item []byte) (a answer, known bool, err error) {
	switch kind {
	case proto.KindKeepalive:
		return a, true, nil
	case proto.KindPong:
		if p := proto.Payload(item); len(p) >= 8 {
			return answer{token: binary.BigEndian.Uint64(p)}, true, nil
		}
	case proto.KindGoodbye:
		g, err := proto.ParseGoodbye(item)
		if err == nil {
			err = &byeError{g}
		}
		return a, false, err
	}
	return a, false, nil // of a later version
}

// ping sends one that is size bytes long on the carrier, and waits until the carrier has taken it.
func (x *echoes) ping(size int) error {
	x.buf = x.buf[:0]
	if x.plain {
		x.buf = proto.AppendKeepalive(x.buf)
	} else {
		binary.BigEndian.PutUint64(x.payload[:], x.next)
		x.buf = proto.AppendPing(x.buf, x.payload[:size-proto.FrameHeaderLen])
	}
	x.sent[x.next] = time.Now()
	x.next++
	return x.link.Write(x.buf, nil)
}

// await waits for an answer to what was sent, and notes how long it took. late is when that is enough: errLate.
func (x *echoes) await(ctx context.Context, late <-chan time.Time) (answer, error) {
	for {
		var a answer
		select {
		case a = <-x.back:
		case <-late:
			return a, errLate
		case <-ctx.Done():
			return a, ctx.Err()
		case <-x.ended:
			select {
			case a = <-x.back: // what came before the end
			default:
				if ctx.Err() != nil { // it is our own
					return a, ctx.Err()
				}
				return a, x.err
			}
		}
		at, ok := x.sent[a.token]
		if !ok { // it came twice, or is none of ours
			continue
		}
		delete(x.sent, a.token)
		x.highest = max(x.highest, a.token+1)
		if d := a.at.Sub(at); x.least == 0 || d < x.least {
			x.least = d
		}
		return a, nil
	}
}

// within waits until one ping has come back, or for so long.
func (x *echoes) within(ctx context.Context, token uint64, d time.Duration) (bool, error) {
	late := time.NewTimer(d)
	defer late.Stop()
	for {
		a, err := x.await(ctx, late.C)
		switch {
		case err == errLate:
			return false, nil
		case err != nil || a.token == token:
			return err == nil, err
		}
	}
}

// first waits for the first one: until then nobody knows whether the gateway takes the key.
func (x *echoes) first(ctx context.Context) error {
	for try := range firstTries {
		if try == 0 || !x.ordered {
			if err := x.ping(smallSize); err != nil {
				return x.cause(err)
			}
		}
		late := time.NewTimer(firstTime)
		_, err := x.await(ctx, late.C)
		late.Stop()
		if err != errLate {
			return err
		}
	}
	return errEcho
}

// cause prefers why the gateway has ended the connection to what came of writing after that.
func (x *echoes) cause(err error) error {
	select {
	case <-x.ended:
		return x.err
	case <-time.After(probeLinger):
		return err
	}
}

// trips measures round trips, and what is lost.
func (x *echoes) trips(ctx context.Context, r *ProbeResult) error {
	if err := x.first(ctx); err != nil {
		return err
	}
	r.Works, r.RTT = true, x.least.Seconds()
	clear(x.sent) // a first one that was lost while the link was made is no loss
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for n := 0; n < smallPings; {
		switch _, err := x.await(ctx, tick.C); err {
		case nil:
		case errLate:
			n++
			if err := x.ping(smallSize); err != nil {
				return x.cause(err)
			}
		default:
			return err
		}
	}
	late := time.NewTimer(max(4*x.least, datagramTime))
	defer late.Stop()
	var err error
	for len(x.sent) > 0 && err == nil {
		_, err = x.await(ctx, late.C)
	}
	r.RTT = x.least.Seconds()
	if !x.ordered {
		r.Loss = float64(len(x.sent)) / smallPings
		clear(x.sent)
	}
	if err == errLate {
		err = nil
	}
	return err
}

// sizes finds out how long a frame may be. What is stuck in a stream holds up everything behind it, so the
// smallest goes first, and the first that does not come back is the last one. A carrier of datagrams knows what it takes now.
func (x *echoes) sizes(ctx context.Context, r *ProbeResult) error {
	most := x.link.Max()
	for _, size := range probeSizes {
		if most > 0 {
			size = min(size, most)
		}
		if size <= r.Largest || x.stuck > 0 {
			continue
		}
		passes, err := x.passes(ctx, size)
		switch {
		case err != nil:
			return err
		case passes:
			r.Largest = size
		default:
			x.stuck = size
		}
	}
	return nil
}

func (x *echoes) passes(ctx context.Context, size int) (ok bool, err error) {
	tries, d := sizeTries, max(3*x.least, datagramTime)
	if x.ordered {
		tries, d = 1, max(4*x.least, streamTime)
	}
	for range tries {
		token := x.next
		if err := x.ping(size); err != nil {
			return false, x.cause(err)
		}
		if ok, err = x.within(ctx, token, d); ok || err != nil {
			break
		}
	}
	return ok, err
}

// A flow is what fill sends, and what has come of it. The window grows with each ping that comes back, and is halved, once in a
// round trip, when some did not.
type flow struct {
	begin       time.Time
	window      int
	whole       uint64 // what is lost before this token was answered for already
	first, last time.Time
	count       int // pings that came back behind the first one, and up to the last
}

// fill keeps the line full for a while, and returns how many bits a second came back.
func (x *echoes) fill(ctx context.Context, size int) (bits float64, err error) {
	clear(x.sent)
	f := flow{begin: time.Now(), window: leastWindow}
	late := time.NewTimer(fillTime)
	defer late.Stop()
	for {
		sending := time.Since(f.begin) < fillTime
		for sending && x.under() < f.window {
			if err := x.ping(size); err != nil {
				return 0, x.cause(err)
			}
		}
		left := fillTime + probeLinger - time.Since(f.begin)
		if left <= 0 || !sending && x.under() == 0 {
			break
		}
		if !x.ordered {
			left = min(left, max(4*x.least, idleTime))
		}
		late.Reset(left)
		expected := x.highest
		switch a, err := x.await(ctx, late.C); err {
		case nil:
			f.came(a, expected, x.next)
		case errLate: // all is lost
			x.highest = x.next
			f.lost(x.next)
		default:
			return 0, err
		}
	}
	if !x.ordered {
		clear(x.sent)
	}
	return f.rate(size), nil
}

// under is how many pings are under way, as far as is known.
func (x *echoes) under() int { return int(x.next - x.highest) }

// came notes an answer. Those between the one that was expected and this one are lost.
func (f *flow) came(a answer, expected, next uint64) {
	f.window = min(f.window+1, mostWindow)
	if a.token > expected && a.token >= f.whole {
		f.lost(next)
	}
	switch {
	case a.at.Sub(f.begin) < steadyTime:
	case f.first.IsZero():
		f.first = a.at
	default:
		f.last = a.at
		f.count++
	}
}

func (f *flow) lost(next uint64) { f.window, f.whole = max(f.window/2, leastWindow), next }

func (f *flow) rate(size int) float64 {
	d := f.last.Sub(f.first)
	if f.count == 0 || d < time.Millisecond {
		return 0
	}
	return float64(f.count*size*8) / d.Seconds()
}

// judge says what is wrong with a way that works.
func (x *echoes) judge(r *ProbeResult) {
	switch {
	case r.Largest == 0:
		r.Works = false
		r.Reason = fmt.Sprintf("only small packets pass: nothing of %d bytes comes back", probeSizes[0])
	case x.stuck > 0:
		r.Reason = fmt.Sprintf("nothing of %d bytes comes back: large packets are lost on the way", x.stuck)
	case r.Loss > 0:
		r.Reason = fmt.Sprintf("%.0f %% of the pings are lost", 100*r.Loss)
	}
}
