// Package multipath carries one session over several carriers. Each connection is a path; the frames of a
// session have numbers, so that what one path has lost goes out again by another, and what came twice is taken once.
//
//	router --> Sender --number, keep--> Path.Queue --> carrier ... carrier --> Reader --take once--> router
//	              ^                                                               |
//	              +--------------------------- ack frames <-----------------------+
//
// On an ordered carrier the numbers are counted, not sent: a number frame says where the count begins, and where it
// goes on after a gap. A carrier that loses packets puts one into each datagram.
//
// A session uses one path at a time:
//
//	          Use(b)                        frames go by a, then a switch frame as the last one; then by b
//	a used ------------> b used
//	   |
//	   | Use(b, again)                      a is dead or seems so: all that is not acknowledged goes by b
//	   +----------------> b used, and a gets a copy of what is new as long as it is only suspected
//
// Without a path, frames are kept for as long as sending them late makes sense.
package multipath

import "time"

const (
	// replayAge is how old a frame may be that is sent again: TCP has sent its bytes anew by then.
	replayAge = time.Second
	// keepAge is how long frames wait for their acknowledgement, with a path that is slow.
	keepAge = 2 * time.Second
	// tail is how many bytes of the newest frames are sent again though they are older than replayAge, up to tailAge: TCP sends one
	// segment after 0.2, 0.6, 1.4, 3.0 s, and would wait for the next of these times.
	tail    = 16 << 10
	tailAge = 10 * time.Second
	// Limit is how many bytes of frames a session keeps, where the budget has as much.
	Limit = 8 << 20

	// An ack frame is due after so many frames or bytes, or when the first frame has waited for so long.
	ackFrames = 64
	ackBytes  = 512 << 10
	ackDelay  = 25 * time.Millisecond
	// patience is how many times ackDelay a missing frame is waited for, before it is given up.
	patience = 8
	// paceTrips is over how many round trips of a hasty carrier goes what is sent again: over one it fills a line by itself, where new frames come, too.
	paceTrips = 2
	// paceTick is the time between two parts of what is sent again by a hasty carrier, and paceMax how long all of it takes at most.
	paceTick = 2 * time.Millisecond
	paceMax  = 500 * time.Millisecond
	// leastPart is how many bytes go at once nevertheless: a queue that would lose these loses everything.
	leastPart = 4 << 10
	// holdTime is how long the first frames of a new path wait for the last ones of the path before.
	holdTime = 50 * time.Millisecond
)
