// Package polling makes a datagram.Transport of what can only ask and answer: ICMP echo, queries of DNS. The gateway's end
// may speak in answers only, so the client keeps questions under way for it.
//
//	client                                             gateway
//	datagram ──▶ question: number, datagram  ───────▶  datagram ──▶ up;  the question waits: FIFO of that client
//	             question: number (a poll)   ───────▶  ...                       |
//	datagram ◀── answer: number, held, datagram ◀────  datagram takes the oldest +
//	             answer: number, held        ◀───────  it has waited for too long, or there are too many
//
// Who adds a medium implements Asker (the client's end: questions out, answers in) and Answerer (the gateway's), which know
// sockets and bytes, and hands them to NewClient and NewServer: both return a datagram.Transport, for datagram.Dial and
// datagram.Listen. A question carries one datagram or none, and so does an answer; package datagram puts several items into one. A question
// has a number, which its answer repeats: 32 bits, one more for each, from a random one on. Back is whatever a medium needs to find back to
// who asked; it comes with the question and is handed to Answer.
//
// A client is known by Question.From: an address, or, where questions come from many addresses (resolvers), a made-up one with the
// client's own number in it. Question.Seen is where the question really came from, which Answerer.Name makes a net.Addr of.
//
// Questions under way, of a client (asking, which is pure):
//
//   - When nothing happens, a poll goes out every 500 ms, which doubles up to 10 s.
//   - For two seconds after anything was sent, or has come, there are Least of them or more.
//   - An answer with a datagram is followed by a poll, and by one more if its question had not to wait at the gateway, which has more to say
//     then: growth as in slow start, up to Polls. One whose question waited for long, or that is empty, or the word that there will be none, takes
//     one back.
//   - The gateway answers the oldest first, so a question that was overtaken by answers to 16 later ones is lost; so is one that is
//     older than Hold and a round trip. The gateway says for how long it has held a question: the rest is the round trip.
//   - Where the medium wants it (Config.Bound), questions with datagrams count among those under way, and wait while there are Polls.
//
// Questions that wait, at the gateway (holding, which is pure): at most Held of a client, for Hold at most; then the oldest is answered
// without a datagram. A question that comes again, as resolvers do it, takes the place of the first one, or is answered without a
// datagram: it never takes a second one. Send takes questions as long as there are some; then it waits, for a while, or puts a few datagrams
// aside for the next questions (maxAside), which is for handshakes and acks.
//
// What a stranger can make a gateway hold: 8 questions of the size of a Back and 32 bytes, for 2 seconds, and 4 KiB of datagrams, which are not
// more than it has sent (package datagram), in an entry of some 250 bytes, which is forgotten 10 s after it has asked last; at most 4096 strangers:
// 2.5 MiB with a Back of 16 bytes. Who comes beside them is a guest: its questions wait only while the datagrams that have come with them are looked at, which is long enough
// for a retry. So questions with invented addresses keep nobody out, and take no place from anybody: who shows a cookie has one (Server.Come, which package datagram calls), as
// has each connection that it makes or knows, where this is and where it may have moved to; 1024 handshakes at most, with 4 MiB. Once the handshake is done
// (Server.Proven) a client has Held questions, until the connection has ended, or is elsewhere (Server.Left).
//
// An answer is sent for a question only, and a medium's answer must add no more to a datagram than its question does: then no more goes to an
// address that is not proven than came from there, for package datagram keeps the datagrams to that.
package polling

import (
	"cmp"
	"time"
)

// A Config says how a medium is used. It is the same at both ends. Zero means the default.
type Config struct {
	Polls int           // most questions that are kept under way, a power of two; default 16
	Least int           // how many there are while something happens; default 4
	Bound bool          // questions with datagrams count among them: a resolver takes no more
	Held  int           // most questions of a client that wait at the gateway; default Polls, half of it if Bound
	Hold  time.Duration // how long a question waits at most; default 1 s; negative: it is answered at once

	Lost    time.Duration // least time after which a question is lost that was not held; default 100 ms
	IdleMin time.Duration // between polls while nothing happens, at first: 500 ms
	IdleMax time.Duration // and later: 10 s

	Strangers int // clients without a connection, of whom something is kept; default 4096
}

func (c *Config) setDefaults() {
	c.Polls = cmp.Or(c.Polls, 16)
	c.Least = cmp.Or(c.Least, 4)
	if c.Held == 0 {
		c.Held = c.Polls
		if c.Bound {
			c.Held = c.Polls / 2
		}
	}
	c.Least = min(c.Least, c.Held)
	c.Hold = cmp.Or(c.Hold, time.Second)
	c.Lost = cmp.Or(c.Lost, 100*time.Millisecond)
	c.IdleMin = cmp.Or(c.IdleMin, 500*time.Millisecond)
	c.IdleMax = cmp.Or(c.IdleMax, 10*time.Second)
	c.Strangers = cmp.Or(c.Strangers, 4096)
}

const (
	// lively is how long something has happened a moment ago.
	lively = 2 * time.Second
	// haste is how soon polls go out that no answer brings about.
	haste = time.Millisecond
	// pace is the least time between polls where answers are empty.
	pace = 50 * time.Millisecond
	// quiet is after how long without a datagram half as many questions are kept under way.
	quiet = 500 * time.Millisecond
	// reorder is how many answers to later questions say that one is lost.
	reorder = 16
	// maxWait is how long Send waits for a question, or for an answer, before its caller may think again.
	maxWait = 250 * time.Millisecond

	// maxAside and asideBytes bound the datagrams of one client that wait for questions; strangerAside those of a stranger.
	maxAside      = 64
	asideBytes    = 16 << 10
	strangerAside = 4 << 10
	// strangerHeld and strangerHold are Held and Hold of a stranger, at most.
	strangerHeld = 8
	strangerHold = 2 * time.Second
	// forgotten is how long a stranger is silent before it is forgotten.
	forgotten = 10 * time.Second

	// maxBatch is how many questions or answers are handed to a medium at once.
	maxBatch = 64
)
