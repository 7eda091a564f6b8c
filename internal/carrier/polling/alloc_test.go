package polling

import (
	"slices"
	"testing"
	"time"

	"ferry/internal/carrier/datagram"
)

// A round is 64 datagrams up, and as many down, through both ends, without a medium between them: what that would receive is made here.
type round struct {
	asking *asking
	server *Server[uint32]
	ask    []Question[uint32]
	chunks []*datagram.Chunk
	data   []byte
	lens   []int
}

func newRound(t testing.TB) *round {
	m := newMedium(1400, 1400, 0, 0)
	r := &round{data: make([]byte, 64*1400), lens: slices.Repeat([]int{1400}, 64)}
	c := Config{Polls: 256, Hold: time.Minute}
	c.setDefaults()
	r.asking = newAsking(c, 1, time.Now())
	r.server = NewServer(discarding{answererEnd{m}}, c)
	t.Cleanup(func() { _ = r.server.Close() })
	if err := r.server.asked([]Question[uint32]{{From: clientAt.Remote}}); err != nil {
		t.Fatal(err)
	}
	prove(r.server, clientAt)
	r.ask = make([]Question[uint32], 64)
	for range 8 {
		r.chunks = append(r.chunks, &datagram.Chunk{Data: make([]byte, datagram.LargeChunk)})
	}
	return r
}

// discarding is a gateway's end whose answers go nowhere.
type discarding struct{ answererEnd }

func (discarding) Answer(to []Reply[uint32], _ []byte, _ []int, _ bool) (int, error) {
	return len(to), nil
}

func (r *round) run(t testing.TB) {
	now := time.Now()
	first := r.asking.ask(64, now)
	for i := range r.ask {
		n := first + uint32(i)
		r.ask[i] = Question[uint32]{From: clientAt.Remote, Seen: clientAt.Remote, Number: n, Back: n, Data: r.data[:1400]}
	}
	if err := r.server.asked(r.ask); err != nil {
		t.Fatal(err)
	}
	c := chunks{all: r.chunks}
	for i := range r.ask {
		if !c.add(clientAt, r.ask[i].Data) {
			t.Fatal("no room")
		}
	}
	if n, err := r.server.Send(r.data, r.lens, clientAt, false); n != 64 || err != nil {
		t.Fatal(n, err)
	}
	for i := range r.ask {
		r.asking.answered(first+uint32(i), 0, true, now)
	}
	if n := r.asking.due(now); n < 0 {
		t.Fatal(n)
	}
	r.asking.deadline(now)
}

// Moving datagrams allocates nothing.
func TestAllocations(t *testing.T) {
	r := newRound(t)
	for range 4 {
		r.run(t)
	}
	if n := testing.AllocsPerRun(200, func() { r.run(t) }); n > 16 { // the race detector makes pools forget
		t.Errorf("%v allocations for 64 datagrams each way", n)
	}
}

// BenchmarkRound is what 64 datagrams each way cost both ends beside the medium.
func BenchmarkRound(b *testing.B) {
	r := newRound(b)
	b.ReportAllocs()
	for b.Loop() {
		r.run(b)
	}
}
