// Package carriertest is the exam of a carrier.Link: what a session relies on, whatever its bytes travel in. Each kind of
// Link takes it in its own tests, in one call:
//
//	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) { ... })
//
// What is asked for:
//
//	items    whole items in, the same ones out, in both directions at once; those that must not be lost in order, data
//	         items with the numbers that they have, and all in order where Max is 0
//	unread   what was not consumed stays, before what comes next
//	full     a peer that does not read stalls nobody: TryWrite returns, and Close ends Write
//	counters of bytes and of times move with the bytes
//	last     a goodbye that was written comes before the end, and the end is io.EOF
//	close    ends Fill, by whoever and however often it is called; nothing is taken behind it
//
// Items are of every length up to Max, or that of the largest packet. The ends of a pair are on one machine, and little is
// under way at once: nothing may be lost.
package carriertest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

// patience is how long a part of the exam may take: the machine may be busy.
const patience = 30 * time.Second

// A Pair makes two connected ends, which TestLink closes. Both have made the handshake, if there is one.
type Pair func(t testing.TB) (client, gateway carrier.Link)

// TestLink is the exam.
func TestLink(t *testing.T, pair Pair) {
	for _, part := range []struct {
		name string
		run  func(t *testing.T, client, gateway carrier.Link)
	}{
		{"items", testItems}, {"unread", testUnread}, {"full", testFull},
		{"counters", testCounters}, {"last", testLast}, {"close", testClose},
	} {
		t.Run(part.name, func(t *testing.T) {
			client, gateway := pair(t)
			closeBoth := func() { _, _ = client.Close(), gateway.Close() }
			late := time.AfterFunc(patience, closeBoth) // what waits fails
			t.Cleanup(func() { late.Stop(); closeBoth() })
			begin(t, client, gateway)
			part.run(t, client, gateway)
		})
	}
}

// begin lets the client say the first word, as it does in the protocol.
func begin(t *testing.T, client, gateway carrier.Link) {
	t.Helper()
	w := word(0, 100)
	sent := make(chan error, 1)
	go func() { sent <- client.Write(w, nil) }()
	got, err := (&reader{link: gateway}).read(1)
	if err = errors.Join(err, <-sent); err != nil || !bytes.Equal(got[0].bytes, w) {
		t.Fatalf("the first word: got %v, %v", got, err)
	}
}

// typeLater is a frame of a later version: it must not be lost, and is skipped by who reads it.
const typeLater = 0x80

// word returns a frame of n bytes that must not be lost, and says which one it is.
func word(nr uint32, n int) []byte {
	b := bytes.Repeat([]byte{byte(nr)}, n)
	binary.BigEndian.PutUint32(b, uint32(n-proto.FrameHeaderLen))
	b[0] = typeLater
	binary.BigEndian.PutUint32(b[proto.FrameHeaderLen:], nr)
	return b
}

// words returns a run of them, of the greatest length.
func words(count int) (run []byte) {
	for nr := range count {
		run = append(run, word(uint32(nr), proto.FrameHeaderLen+proto.MaxControl)...)
	}
	return run
}

// packetOf returns a bare packet of n bytes that says which one it is.
func packetOf(nr uint32, n int) []byte {
	b := bytes.Repeat([]byte{byte(nr)}, n)
	copy(b, []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	if n >= proto.ControlLen+4 {
		binary.BigEndian.PutUint32(b[proto.ControlLen:], nr)
	}
	return b
}

// dataFrame returns a packet in a frame of n bytes.
func dataFrame(nr uint32, n int) []byte {
	b := make([]byte, proto.DataHeaderLen, n)
	proto.PutBareHeader(b, n-proto.DataHeaderLen)
	return append(b, packetOf(nr, n-proto.DataHeaderLen)...)
}

// An item is one that came. A data item has its number.
type item struct {
	travel proto.Travel
	number uint64
	bytes  []byte
}

// A reader takes items off a link, and counts as the gateway and the client do.
type reader struct {
	link carrier.Link
	next uint64 // number of the next data item
}

// read waits for so many items at least.
func (r *reader) read(count int) (all []item, err error) {
	for len(all) < count {
		buf, start, end, err := r.link.Fill()
		if err != nil {
			return all, err
		}
		if err := room(buf, start); err != nil {
			return all, err
		}
		items, n, err := r.parse(buf[start:end])
		if err != nil {
			return all, err
		}
		r.link.Consume(n)
		all = append(all, items...)
	}
	return all, nil
}

// room looks for the room that the caller may write into, and does so.
func room(buf []byte, start int) error {
	if start < carrier.Headroom {
		return fmt.Errorf("%d bytes of room before the items, want %d", start, carrier.Headroom)
	}
	clear(buf[start-carrier.Headroom : start])
	return nil
}

// parse returns the items at the start of b, and their length.
func (r *reader) parse(b []byte) (all []item, n int, err error) {
	for n < len(b) {
		size, err := proto.NextItem(b[n:])
		if err != nil {
			return all, n, fmt.Errorf("at byte %d of %d: %w", n, len(b), err)
		}
		if size == 0 {
			break
		}
		i := item{travel: proto.TravelOf(b[n:]), bytes: bytes.Clone(b[n : n+size])}
		n += size
		switch i.travel {
		case proto.TravelNumber:
			if r.next, err = proto.ParseNumber(i.bytes); err != nil {
				return all, n, err
			}
			continue
		case proto.TravelCounted:
			i.number = r.next
			r.next++
		}
		all = append(all, i)
	}
	if n < len(b) && r.link.Max() > 0 {
		return all, n, fmt.Errorf("the last %d bytes are a part of an item", len(b)-n)
	}
	return all, n, nil
}

// testUnread reads three items one after the other without consuming them, then the last one alone.
func testUnread(t *testing.T, client, gateway carrier.Link) {
	r := &reader{link: gateway}
	next, written := make(chan uint32), make(chan error, 1)
	go func() { // one goroutine writes; it ends with next, or with the link
		var err error
		for nr := range next {
			err = errors.Join(err, client.Write(word(nr, 200), nil))
		}
		written <- err
	}()
	defer func() {
		close(next)
		if err := <-written; err != nil {
			t.Error(err)
		}
	}()
	fill := func(first, last uint32) (size int) {
		t.Helper()
		for {
			buf, start, end, err := gateway.Fill()
			if err == nil {
				err = room(buf, start)
			}
			if err != nil {
				t.Fatal(err)
			}
			items, n, err := r.parse(buf[start:end])
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range items {
				if !bytes.Equal(got.bytes, word(first+uint32(i), 200)) {
					t.Fatalf("item %d is %x", i, got.bytes)
				}
			}
			if len(items) == int(last-first)+1 {
				return n
			}
		}
	}
	for nr := range uint32(3) {
		next <- nr
		fill(0, nr)
	}
	gateway.Consume(2 * 200)
	next <- 3
	gateway.Consume(fill(2, 3))
	next <- 4
	fill(4, 4)
	gateway.Release()
}

// testFull writes to a gateway that does not read.
func testFull(t *testing.T, client, _ carrier.Link) {
	const size = 32 << 20
	run := words(size / (proto.FrameHeaderLen + proto.MaxControl))
	n, err := client.TryWrite(run)
	if err != nil || n == len(run) {
		t.Fatalf("took %d of %d bytes, %v", n, len(run), err)
	}
	if client.Max() > 0 && proto.WholeItem(run, n) != n {
		t.Errorf("took %d bytes, which end within an item", n)
	}
	if held := client.Held(); held < 0 || held > 1<<20 {
		t.Errorf("holds %d bytes", held)
	}
	written := make(chan error, 1)
	go func() { written <- client.Write(run[n:], nil) }()
	select {
	case err := <-written:
		t.Fatalf("wrote %d bytes that nobody reads, %v", len(run), err)
	case <-time.After(20 * time.Millisecond): // it may wait by now; if not, Close comes before it
	}
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-written; err == nil {
		t.Error("Write returns no error behind Close")
	}
}

// testCounters looks at what a link counts, before and behind some items.
func testCounters(t *testing.T, client, gateway carrier.Link) {
	for _, ends := range [][2]carrier.Link{{client, gateway}, {gateway, client}} {
		from, to := ends[0], ends[1]
		sent, received, began := from.Sent(), to.Received(), time.Now()
		if from.LastSent().After(began) || to.LastReceived().After(began) {
			t.Errorf("at %s the last bytes went at %s and came at %s", began, from.LastSent(), to.LastReceived())
		}
		run := append(word(1, 500), word(2, 500)...)
		written := make(chan error, 1)
		go func() { written <- from.Write(run, nil) }()
		_, err := (&reader{link: to}).read(2)
		if err := errors.Join(err, <-written); err != nil {
			t.Fatal(err)
		}
		if n := to.Received() - received; n < uint64(len(run)) || n > 3*uint64(len(run)) {
			t.Errorf("%d bytes are received for %d", n, len(run))
		}
		if to.LastReceived().Before(began) {
			t.Errorf("the last bytes came at %s, before %s", to.LastReceived(), began)
		}
		// Who sends may count a moment after the other end has read.
		for end := began.Add(patience); from.Sent() < sent+uint64(len(run)) || from.LastSent().Before(began); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d bytes are sent for %d, the last ones at %s, want it behind %s", from.Sent()-sent, len(run), from.LastSent(), began)
			}
		}
	}
}

// testLast closes behind a goodbye.
func testLast(t *testing.T, client, gateway carrier.Link) {
	bye := proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown, Text: "last words"})
	closed := make(chan error, 1)
	go func() { closed <- errors.Join(gateway.Write(bye, nil), gateway.Close()) }()
	r := &reader{link: client}
	if got, err := r.read(1); err != nil || !bytes.Equal(got[0].bytes, bye) {
		t.Errorf("got %v, %v; want a goodbye", got, err)
	}
	if got, err := r.read(1); err != io.EOF {
		t.Errorf("behind it: got %v, %v; want %v", got, err, io.EOF)
	}
	if err := <-closed; err != nil {
		t.Errorf("closed with %v", err)
	}
}

// testClose closes a link that waits to read, from two goroutines, and once more.
func testClose(t *testing.T, client, _ carrier.Link) {
	filled := make(chan error, 1)
	go func() {
		_, _, _, err := client.Fill()
		filled <- err
	}()
	var closing sync.WaitGroup
	for range 2 {
		closing.Go(func() {
			if err := client.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	closing.Wait()
	if err := <-filled; err == nil {
		t.Error("Fill returns no error behind Close")
	}
	if _, _, _, err := client.Fill(); err == nil {
		t.Error("the next Fill returns no error")
	}
	client.Release()
	client.Release()
	if err := client.Close(); err != nil {
		t.Errorf("Close once more: %v", err)
	}
	w := word(1, 100)
	if n, err := client.TryWrite(w); n > 0 && err == nil {
		t.Errorf("%d bytes are taken behind Close", n)
	}
	if err := client.Write(w, nil); err == nil {
		t.Error("Write returns no error behind Close")
	}
}
