package polling

import (
	"net"
	"net/netip"
	"time"
)

// An Asker is a client's end of a medium. Receive is called by one goroutine, Ask by any.
type Asker interface {
	// Receive waits for answers, sets as many as there are and room is, and returns how many. What their Data is stays as it is until the
	// next call. Its error is final, and that of the connection.
	Receive(a []Answer) (int, error)
	// Ask sends questions with the numbers from first on. Their datagrams stand back to back in b and have these lengths; 0 is a
	// poll. It returns how many were taken: all of them if it may wait, else as many as there is room for at once. What can not be sent
	// for another reason is lost. Its error is final.
	Ask(first uint32, b []byte, lens []int, wait bool) (int, error)
	// Max returns the length of the longest datagram in a question, Takes that in an answer.
	Max() int
	Takes() int
	// Name returns the gateway's address as package net knows it, with the name of the carrier as its network.
	Name() net.Addr
	Local() net.Addr
	// Close makes all calls return.
	Close() error
}

// An Answer is one that has come.
type Answer struct {
	Number uint32
	Held   time.Duration // how long the question has waited at the gateway
	Data   []byte        // the datagram; empty: there was none
	Lost   bool          // it is no answer, but the word that there will be none to that question
	Nobody bool          // it is no answer, but the word that nobody is there; what else there is means nothing
}

// An Answerer is a gateway's end of a medium. Receive is called by one goroutine, Answer by any.
type Answerer[B any] interface {
	// Receive waits for questions, sets as many as there are and room is, and returns how many. What their Data is stays as it is
	// until the next call. Its error is final.
	Receive(q []Question[B]) (int, error)
	// Answer answers questions: the datagrams stand back to back in b and have these lengths, one for each; 0 is an empty answer, which a medium
	// need not send. It returns how many were taken: all of them if it may wait, else as many as there is room for at once. What can
	// not be sent for another reason is lost. Its error is final. It keeps nothing of to.
	Answer(to []Reply[B], b []byte, lens []int, wait bool) (int, error)
	// Max returns the length of the longest datagram in an answer, Takes that in a question.
	Max() int
	Takes() int
	// Name returns an address where a question was seen as package net knows it, with the name of the carrier as its network; it has
	// a method AddrPort, by which the gateway bounds where clients come from.
	Name(seen netip.AddrPort) net.Addr
	Local() net.Addr
	// Close makes all calls return.
	Close() error
}

// A Question is one that has come. B is what the medium needs to answer it.
type Question[B any] struct {
	From   netip.AddrPort // who asks: what the client is known by
	Seen   netip.AddrPort // where the question came from
	Number uint32
	Data   []byte // the datagram; empty: a poll
	Back   B
}

// A Reply says to what an answer is one.
type Reply[B any] struct {
	Number uint32
	Held   time.Duration
	Back   B
}
