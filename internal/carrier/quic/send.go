package quic

import (
	"sync"
	"sync/atomic"

	"ferry/internal/proto"
)

// wordsSize is how many bytes may wait for the stream: several of the longest items.
const wordsSize = 64 << 10

// A sender keeps what is to be sent until its pumps have handed it to the library.
type sender struct {
	link *Link

	mu    sync.Mutex // guards what follows
	items packer
	words []byte // for the stream
	last  bool   // nothing follows what was put into words
	// Who pumps: set by the one who starts a pump, cleared by the pump before it ends.
	pumpItems, pumpWords bool
	closed               bool

	spare []byte // belongs to the pump of words

	room    chan struct{} // capacity 1; sent to by pumps: there is room again
	pumps   sync.WaitGroup
	stream  sync.WaitGroup // the pump of words
	limit   atomic.Int64   // of the length of a datagram
	dropped atomic.Uint64  // items that no datagram took
}

func (s *sender) init(l *Link, limit int) {
	s.link = l
	s.items.framer = proto.Framer{FromServer: l.server, Extended: true}
	s.room = make(chan struct{}, 1)
	s.limit.Store(int64(limit))
}

func (s *sender) setLimit(n int) {
	if n >= leastLimit {
		s.limit.Store(int64(n))
	}
}

// put takes whole items as far as there is room, and returns how many bytes that was. It does not wait.
func (s *sender) put(b []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0
	}
	s.items.limit = int(s.limit.Load())
	before := s.items.dropped
	done := 0
	for done < len(b) {
		k, n, err := s.items.framer.Next(b[done:])
		if err != nil || n == 0 { // not by any of ours
			s.items.dropped++
			done = len(b)
			break
		}
		if !s.putItem(k, b[done:done+n]) {
			break
		}
		done += n
	}
	s.dropped.Add(s.items.dropped - before)
	s.start()
	return done
}

// putItem takes an item, if there is room. The caller holds mu.
func (s *sender) putItem(k proto.Kind, item []byte) bool {
	switch {
	case k.Travel() != proto.TravelSurely:
		return s.items.put(k, item)
	case s.last:
		return true
	case len(s.words)+len(item) > wordsSize:
		return false
	}
	s.words = append(s.words, item...)
	s.last = lastWords(k)
	return true
}

// start starts the pumps that there is something to do for. The caller holds mu.
func (s *sender) start() {
	if b := s.items.batch; b != nil && b.n > 0 && !s.pumpItems {
		s.pumpItems = true
		s.pumps.Go(s.sendItems)
	}
	if len(s.words) > 0 && !s.pumpWords {
		s.pumpWords = true
		s.stream.Go(s.sendWords)
	}
}

// sendItems hands datagrams to the library until there are none, or the connection has ended.
func (s *sender) sendItems() {
	for {
		b := s.takeItems()
		if b == nil {
			return
		}
		s.setLimit(s.link.conn.limit(b.data[:])) // it grows with what is found out about the path
		for i := range b.n {
			if !s.send(b.datagram(i)) {
				break
			}
		}
		b.free()
	}
}

func (s *sender) takeItems() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.items.batch
	s.items.batch = nil
	if b == nil {
		s.pumpItems = false
		return nil
	}
	notify(s.room)
	return b
}

// send sends a datagram, in smaller ones if the path carries less than before. It returns false when the connection
// has ended.
func (s *sender) send(d []byte) bool {
	limit, err := s.link.conn.send(d)
	if limit == 0 {
		s.link.sent.count(len(d))
		return err == nil
	}
	if s.setLimit(limit); limit < leastLimit { // never, says the library
		s.dropped.Add(1)
		return true
	}
	p := packer{framer: s.items.framer, limit: limit, batch: newBatch()}
	defer p.batch.free()
	for len(d) > 0 {
		k, n, err := p.framer.Next(d)
		if err != nil || n == 0 || !p.put(k, d[:n]) {
			panic("quic: a datagram that was packed can not be unpacked")
		}
		d = d[n:]
	}
	s.dropped.Add(p.dropped)
	for i := range p.batch.n {
		d := p.batch.datagram(i)
		if limit, err := s.link.conn.send(d); err != nil {
			return false
		} else if limit > 0 { // it changes at this moment
			s.dropped.Add(1)
		} else {
			s.link.sent.count(len(d))
		}
	}
	return true
}

// sendWords writes to the stream until nothing is left, or the connection has ended.
func (s *sender) sendWords() {
	c := s.link.conn
	select {
	case <-c.opened:
	case <-c.ended(): // with what is left; whoever reads hears of it
		return
	}
	for {
		b := s.takeWords()
		if len(b) == 0 {
			return
		}
		n, err := c.stream.Write(b)
		s.link.sent.count(n)
		if err != nil {
			return
		}
	}
}

func (s *sender) takeWords() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.words
	s.words, s.spare = s.spare[:0], b
	if len(b) == 0 {
		s.pumpWords = false
		s.words, s.spare = nil, nil // an idle link holds no memory
		return nil
	}
	notify(s.room)
	return b
}

// finish takes nothing more, and tells whether the other end is to hear last words.
func (s *sender) finish() (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.last
}

func (s *sender) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// free gives memory back that nobody will send.
func (s *sender) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items.batch != nil {
		s.items.batch.free()
		s.items.batch = nil
	}
	s.words, s.spare = nil, nil
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
