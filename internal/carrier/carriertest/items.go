package carriertest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

const (
	rounds = 60
	// A round has data items, and behind them one that may be lost and some that must not be.
	perRound = 12
	surely   = 3
	maxItem  = 1<<16 - 1 // an IP packet
)

// testItems sends rounds of items both ways at once. An end that has all goes on to read: what the other one has acknowledged comes that way.
func testItems(t *testing.T, client, gateway carrier.Link) {
	var sending, reading sync.WaitGroup
	for name, ends := range map[string][2]carrier.Link{"up": {client, gateway}, "down": {gateway, client}} {
		sending.Add(1)
		reading.Go(func() {
			from, r := ends[0], &reader{link: ends[1]}
			for nr := range rounds {
				if err := exchange(from, r, nr); err != nil {
					t.Errorf("%s, round %d of %d, items of up to %d bytes: %v", name, nr, rounds, from.Max(), err)
					break
				}
			}
			sending.Done()
			_, _ = r.read(math.MaxInt) // until it is closed
		})
	}
	sending.Wait()
	_, _ = client.Close(), gateway.Close()
	reading.Wait()
}

// exchange sends the items of a round, and wants them at the other end.
func exchange(from carrier.Link, r *reader, nr int) error {
	want := roundOf(nr, from.Max())
	run, sent := bytes.Join(want, nil), make(chan error, 1)
	go func() { sent <- write(from, run, nr%2 == 0) }()
	got, err := r.read(len(want))
	if err != nil {
		err = fmt.Errorf("%d of %d items came: %w", len(got), len(want), err)
	} else {
		err = compare(got, want, uint64(nr*perRound), from.Max() == 0)
	}
	if err != nil {
		_ = from.Close() // it may wait
	}
	return errors.Join(err, <-sent)
}

// write sends a run, as much of it as possible without waiting if that is to be tried.
func write(l carrier.Link, run []byte, try bool) error {
	if try {
		n, err := l.TryWrite(run)
		if err == nil && l.Max() > 0 && proto.WholeItem(run, n) != n {
			err = fmt.Errorf("took %d bytes, which end within an item", n)
		}
		if err != nil {
			return err
		}
		run = run[n:]
	}
	return l.Write(run, func() {})
}

// roundOf returns the items of a round, of which a link takes those of up to limit bytes; 0: of any length. All lengths
// have their turn, the least and the greatest in each round.
func roundOf(nr, limit int) (all [][]byte) {
	if limit == 0 {
		limit = maxItem
	}
	const least = proto.DataHeaderLen + proto.ControlLen
	for i := range perRound {
		id, n := uint32(nr*perRound+i), least+(nr*perRound+i)*(limit-least)/(rounds*perRound)
		switch i {
		case 0:
			n = least
		case 1:
			n = limit
		}
		if i%2 == 0 {
			all = append(all, dataFrame(id, n))
		} else {
			all = append(all, packetOf(id, n))
		}
	}
	all = append(all, proto.AppendPing(nil, fmt.Appendf(nil, "ping %d", nr)))
	for i := range surely {
		all = append(all, word(uint32(nr*surely+i), 9+nr*16))
	}
	return all
}

// compare tells whether the items that came are those that were sent, with data items numbered from first on.
func compare(got []item, want [][]byte, first uint64, ordered bool) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d items came, want %d", len(got), len(want))
	}
	words := 0
	for i, g := range got {
		at := i
		switch {
		case ordered:
		case g.travel == proto.TravelCounted:
			at = int(g.number - first)
		case g.travel == proto.TravelLoosely:
			at = perRound
		default:
			words++
			at = perRound + words
		}
		if at < 0 || at >= len(want) || want[at] == nil || !bytes.Equal(g.bytes, want[at]) {
			return fmt.Errorf("item %d of %d bytes is none that was sent, or comes twice", i, len(g.bytes))
		}
		if g.travel == proto.TravelCounted && g.number != first+uint64(at) {
			return fmt.Errorf("item %d has the number %d, want %d", i, g.number, first+uint64(at))
		}
		want[at] = nil
	}
	return nil
}
