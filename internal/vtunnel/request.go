package vtunnel

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxRequest is how much of a request the original reads, bytes.
const maxRequest = 1024

// A request is what a client asks for.
type request struct {
	auth, addr string
	port       int32  // as the original's int; of it 16 bits count
	proto      string // as it was written; anything but udp is TCP
}

func (r request) udp() bool { return strings.HasPrefix(r.proto, "udp") }

// appendRequest appends the request for a destination.
func appendRequest(b []byte, r request) []byte {
	return fmt.Appendf(b, "%s %s %d %s", r.auth, r.addr, r.port, r.proto)
}

// How much of a request has come.
type progress uint8

const (
	partial progress = iota // the original would answer "fail", but more may come
	enough                  // the original would take it, but more may belong to it
	whole
	broken // and stays so
)

// consumeRequest reads the request that b begins with, as sscanf("%s %s %d %s") does, and returns its length. A line end behind it
// belongs to it: people write one with netcat.
func consumeRequest(b []byte) (r request, n int, p progress) {
	s := scanner{b: b}
	if r.auth = s.word(); s.atEnd() {
		return r, 0, partial
	}
	if r.addr = s.word(); s.atEnd() {
		return r, 0, partial
	}
	var ok bool
	if r.port, ok = s.number(); !ok || s.atEnd() {
		if s.atEnd() {
			return r, 0, partial
		}
		return r, 0, broken
	}
	s.skip()
	rest := string(b[s.at:])
	switch {
	case rest == "":
		return r, 0, partial
	case strings.HasPrefix(rest, "tcp"), strings.HasPrefix(rest, "udp"):
		r.proto = rest[:3]
		return r, s.at + 3 + lineEnd(rest[3:]), whole
	}
	r.proto = s.word()
	if s.atEnd() && (strings.HasPrefix("tcp", r.proto) || strings.HasPrefix("udp", r.proto)) {
		return r, s.at, enough
	}
	return r, s.at + lineEnd(string(b[s.at:])), whole
}

// lineEnd returns the length of the line end that s begins with; one of C's strings counts, too.
func lineEnd(s string) int {
	for _, end := range []string{"\r\n", "\n", "\x00"} {
		if strings.HasPrefix(s, end) {
			return len(end)
		}
	}
	return 0
}

// A scanner takes words and numbers as sscanf does.
type scanner struct {
	b  []byte
	at int
}

func (s *scanner) atEnd() bool { return s.at == len(s.b) }

// skip goes past white space.
func (s *scanner) skip() {
	for s.at < len(s.b) && isSpace(s.b[s.at]) {
		s.at++
	}
}

func (s *scanner) word() string {
	s.skip()
	from := s.at
	for s.at < len(s.b) && !isSpace(s.b[s.at]) {
		s.at++
	}
	return string(s.b[from:s.at])
}

// number takes a number, of which 32 bits stay, as of C's int. It is not ok where there is none.
func (s *scanner) number() (n int32, ok bool) {
	s.skip()
	from := s.at
	if s.at < len(s.b) && (s.b[s.at] == '+' || s.b[s.at] == '-') {
		s.at++
	}
	for s.at < len(s.b) && '0' <= s.b[s.at] && s.b[s.at] <= '9' {
		s.at++
	}
	v, err := strconv.ParseInt(string(s.b[from:s.at]), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // beyond the range it is the largest, as strtol has it
		return 0, false
	}
	return int32(v), true
}

func isSpace(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' }

// A reply is a server's answer.
type reply string

const (
	ready      reply = "ready" // connected
	notReached reply = "error" // the destination can not be connected to
	badRequest reply = "fail"
	badAddress reply = "addr"
	badAuth    reply = "auth"
)

// A replyError is an answer that is none.
type replyError struct{ got string }

func (e *replyError) Error() string {
	return fmt.Sprintf("the server answered %q: is it one of vtunnel?", e.got)
}

// readReply reads a reply and nothing behind it.
func readReply(from io.Reader) (reply, error) {
	b := make([]byte, len(ready))
	n, err := io.ReadFull(from, b[:len(badAuth)])
	if err != nil {
		return "", errors.Join(&replyError{string(b[:n])}, err)
	}
	switch r := reply(b[:n]); r {
	case badRequest, badAddress, badAuth:
		return r, nil
	case ready[:n], notReached[:n]:
		if _, err := io.ReadFull(from, b[n:]); err != nil {
			return "", errors.Join(&replyError{string(b[:n])}, err)
		}
	}
	switch r := reply(b); r {
	case ready, notReached:
		return r, nil
	}
	return "", &replyError{string(b[:n])}
}
