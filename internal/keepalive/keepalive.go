// Package keepalive decides when a client says that it is still there, and when either side gives
// the other one up. It does no I/O and reads no clock: what was observed and the time go in, what to
// do and when to ask again come out.
//
// A client sends a keepalive only when nothing else went out for Interval. It gives the gateway up
// when a probe was not followed by any byte for Answer:
//
//	     sent or heard          Interval               Answer
//	------------o---------------------------> probe ------------> dead
//	            ^                               |
//	            +------- anything heard --------+
//
// A gateway gives a client up by four deadlines (Limits), each of them in total and never per read,
// so that a byte now and then does not buy more time.
package keepalive

import "time"

// DefaultAnswer is how long a gateway may take to answer a probe. With the 15 s between keepalives a
// dead one is noticed within 30 s (exam F6).
const DefaultAnswer = 10 * time.Second

// Never is returned as a deadline when there is nothing to wait for.
var Never = time.Time{}

// A Prober is the client's half. The zero value is not usable; its fields are set once.
type Prober struct {
	Interval time.Duration // silence in our direction after which a keepalive is due
	Answer   time.Duration // how long the other side may take to answer one
	// Echo is set when the other side is known to answer probes even while we send other
	// traffic: then silence in its direction makes a probe due as well.
	Echo bool
	// Behind is set while the last probe still stands behind other bytes in our own queue: as long
	// as those go out, the answer is not late.
	Behind bool

	probed time.Time // when the unanswered probe was sent; zero: none
}

// An Action is what the owner of a Prober has to do now.
type Action uint8

// The actions.
const (
	Wait Action = iota
	Send        // a keepalive; call Next again at once
	Dead        // close the connection
)

// Forget is for a probe that was never sent: none is waited for any more.
func (p *Prober) Forget() { p.probed = time.Time{} }

// Next returns what to do at now, given when the last bytes were sent and heard, and the time at
// which to ask again at the latest. Nobody has to ask when something is heard: while a probe is
// unanswered it is looked at again every Interval, so the next one is not late.
func (p *Prober) Next(now, sent, heard time.Time) (Action, time.Time) {
	if !p.probed.IsZero() && !heard.Before(p.probed) {
		p.probed = time.Time{}
	}
	if p.Behind && sent.After(p.probed) && !p.probed.IsZero() {
		p.probed = sent
	}
	if !p.probed.IsZero() {
		dead := p.probed.Add(p.Answer)
		if !now.Before(dead) {
			return Dead, Never
		}
		return Wait, earlier(dead, now.Add(p.Interval))
	}
	due := sent.Add(p.Interval)
	if silent := heard.Add(p.Interval); p.Echo && silent.Before(due) {
		due = silent
	}
	if now.Before(due) {
		return Wait, due
	}
	p.probed = now
	return Send, now.Add(min(p.Answer, p.Interval))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Limits are how long a gateway waits for a client.
type Limits struct {
	Join  time.Duration // until its first request is complete
	Frame time.Duration // until an item that has begun is complete
	Write time.Duration // without progress in sending to it
	Idle  time.Duration // without any byte from it
}

// Seen is what a gateway has observed of one client. A zero time means that the thing is not so.
type Seen struct {
	Accepted time.Time // when the connection came; zero once it has an address
	Heard    time.Time // the last byte from it
	Frame    time.Time // when the incomplete item began
	Blocked  time.Time // since when sending makes no progress
}

// A Verdict says whether and why to give a client up.
type Verdict uint8

// The verdicts.
const (
	Alive Verdict = iota
	JoinTimeout
	FrameTimeout
	WriteTimeout
	IdleTimeout
)

func (v Verdict) String() string {
	return [...]string{"alive", "join_timeout", "frame_timeout", "write_timeout", "idle_timeout"}[v]
}

// Judge returns the verdict at now.
func (l Limits) Judge(now time.Time, s Seen) Verdict {
	over := func(since time.Time, limit time.Duration) bool {
		return !since.IsZero() && now.Sub(since) >= limit
	}
	switch {
	case over(s.Accepted, l.Join):
		return JoinTimeout
	case over(s.Frame, l.Frame):
		return FrameTimeout
	case over(s.Blocked, l.Write):
		return WriteTimeout
	case over(s.Heard, l.Idle):
		return IdleTimeout
	}
	return Alive
}

// Tick is how often clients have to be judged so that no limit is passed by more than an eighth.
func (l Limits) Tick() time.Duration {
	return max(min(l.Join, l.Frame, l.Write, l.Idle)/8, time.Millisecond)
}
