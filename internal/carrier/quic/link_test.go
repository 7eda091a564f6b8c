package quic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/proto"
)

// Both ways, each item comes whole, of every length from the least to Max.
func TestSizes(t *testing.T) {
	noGoroutines(t)
	client, server := pair(t)
	for _, way := range []struct {
		name     string
		from, to *Link
	}{{"up", client, server}, {"down", server, client}} {
		t.Run(way.name, func(t *testing.T) {
			if n := way.from.Max(); n < leastLimit-proto.NumberLen {
				t.Fatalf("carries items of %d bytes", n)
			}
			for n := proto.DataHeaderLen + 1; n <= way.from.Max(); n += 7 {
				item := frame(n, uint32(n))
				write(t, way.from, item)
				if got := read(t, way.to, n); !bytes.Equal(got, item) {
					t.Fatalf("an item of %d bytes came as %d others", n, len(got))
				}
			}
			longest := frame(way.from.Max(), 77)
			write(t, way.from, longest)
			if got := read(t, way.to, len(longest)); !bytes.Equal(got, longest) {
				t.Error("the longest item did not come")
			}
		})
	}
}

// What is longer than Max comes in fragments, which have the number of the item; the count goes on behind them.
func TestLongItems(t *testing.T) {
	client, server := pair(t)
	write(t, client, proto.AppendNumber(nil, 1000))
	long := frame(proto.MaxData, 5)
	write(t, client, append(append(frame(100, 1), long...), frame(200, 2)...))

	var whole []byte
	numbers := map[int]uint64{} // of data items, by their length
	var next uint64
	for len(numbers) < 2 || len(whole) < len(long) {
		for _, item := range readItems(t, server) {
			switch item[0] {
			case 0x8d:
				next, _ = proto.ParseNumber(item)
			case 0x8e:
				f, err := proto.ParseFragment(item)
				if err != nil || f.Number != 1001 || f.Len != len(long) || f.Offset != len(whole) {
					t.Fatalf("number %d, part of %d bytes at %d of %d, after %d; %v", f.Number, len(f.Part), f.Offset, f.Len, len(whole), err)
				}
				whole = append(whole, f.Part...)
			default:
				numbers[len(item)] = next
				next++
			}
		}
	}
	if !bytes.Equal(whole, long) || numbers[100] != 1000 || numbers[200] != 1002 {
		t.Errorf("the item differs, or the numbers of the others are %v", numbers)
	}
}

// Items of the stream come in order, whatever comes beside them, and none is lost though one datagram in ten is.
func TestLoss(t *testing.T) {
	noGoroutines(t)
	client, server := pairBy(t, func(g netip.AddrPort) netip.AddrPort { return newRelay(t, g, 0.1).addr() })
	const words, frames = 200, 2000
	done := make(chan error, 1)
	go func() {
		for i := range frames {
			b := frame(1000, uint32(i))
			if i%(frames/words) == 0 {
				b = append(proto.AppendSwitch(nil, proto.SwitchMessage{Epoch: uint64(i), Next: 1}), b...)
			}
			if err := client.Write(b, nil); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	watch := time.AfterFunc(2*patience, func() { server.Close() })
	defer watch.Stop()
	came, next := 0, uint64(0)
	for next < frames {
		for _, item := range readItems(t, server) {
			switch item[0] {
			case 0x8c:
				m, err := proto.ParseSwitch(item)
				if err != nil || m.Epoch != next {
					t.Fatalf("word %d came in the place of %d, %v", m.Epoch, next, err)
				}
				next += frames / words
			case 0x81:
				came++
			}
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if came < frames/2 || came == frames {
		t.Errorf("%d of %d frames came: about one in ten was to be lost", came, frames)
	}
}

// A datagram that was lost does not shift the numbers of those behind it.
func TestNumbersWithLoss(t *testing.T) {
	client, server := pairBy(t, func(g netip.AddrPort) netip.AddrPort { return newRelay(t, g, 0.2).addr() })
	const frames = 500
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range uint32(frames) {
			_ = client.Write(frame(600, i), nil)
		}
		for { // the end may be lost
			select {
			case <-server.closing:
				return
			case <-time.After(20 * time.Millisecond):
				_ = client.Write(frame(600, frames), nil)
			}
		}
	}()
	defer func() { server.Close(); <-done }()
	came, next := 0, uint64(0)
	for {
		for _, item := range readItems(t, server) {
			if item[0] == 0x8d {
				next, _ = proto.ParseNumber(item)
				continue
			}
			mark := binary.BigEndian.Uint32(item[proto.DataHeaderLen:])
			if mark == frames {
				if came == 0 || came == frames {
					t.Errorf("%d frames came", came)
				}
				return
			}
			if uint64(mark) != next {
				t.Fatalf("frame %d has number %d", mark, next)
			}
			next++
			came++
		}
	}
}

// At full rate nothing blocks for good, and what comes is whole; both ways at once.
func TestFullRate(t *testing.T) {
	noGoroutines(t)
	client, server := pair(t)
	ended := make(chan int, 2)
	stop := make(chan struct{})
	for _, way := range [][2]*Link{{client, server}, {server, client}} {
		go func() {
			b := frame(1000, 9)
			for {
				select {
				case <-stop:
					way[0].Close()
					return
				default:
					_ = way[0].Write(b, nil)
				}
			}
		}()
		go func() {
			want := frame(1000, 9)
			n := 0
			for {
				buf, start, end, err := way[1].Fill()
				if err != nil {
					ended <- n
					return
				}
				for b := buf[start:end]; len(b) > 0; {
					k, size, err := proto.Framer{Extended: true}.Next(b)
					if err != nil || k == proto.KindData && !bytes.Equal(b[:size], want) {
						t.Error("an item differs:", err)
						way[1].Close()
						break
					}
					b = b[size:]
					n++
				}
				way[1].Consume(end - start)
			}
		}()
	}
	time.Sleep(time.Second)
	close(stop)
	for range 2 {
		select {
		case n := <-ended:
			if n < 1000 {
				t.Errorf("only %d items came", n)
			}
		case <-time.After(patience):
			t.Fatal("somebody reads for ever")
		}
	}
}

// A peer that does not read stalls nobody: TryWrite returns at once with what it took. Datagrams are lost then; who writes words
// waits until Close.
func TestPeerThatDoesNotRead(t *testing.T) {
	noGoroutines(t)
	for name, item := range map[string][]byte{
		"words": proto.AppendSwitch(nil, proto.SwitchMessage{}),
		"data":  frame(30000, 1),
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := pair(t)
			run := bytes.Repeat(item, (4<<20)/len(item))
			n, err := client.TryWrite(run)
			if err != nil || n == 0 || n > batchSize || n%len(item) != 0 {
				t.Fatalf("took %d bytes, %v", n, err)
			}
			done := make(chan error, 1)
			progress := 0
			go func() { done <- client.Write(run, func() { progress++ }) }()
			if name == "data" {
				if err := <-done; err != nil || progress < len(run)/batchSize {
					t.Errorf("%v after %d parts", err, progress)
				}
				return
			}
			select {
			case err := <-done:
				t.Error("all was taken:", err)
			case <-time.After(100 * time.Millisecond):
			}
			client.Close()
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Write: %v", err)
			}
			if _, err := client.TryWrite(item); !errors.Is(err, net.ErrClosed) {
				t.Errorf("TryWrite after Close: %v", err)
			}
		})
	}
}

// On a way that carries nothing any more what is written waits within bounds, and Close is done at once.
func TestDeadPath(t *testing.T) {
	noGoroutines(t)
	var r *relay
	client, _ := pairBy(t, func(g netip.AddrPort) netip.AddrPort { r = newRelay(t, g, 0); return r.addr() })
	r.mu.Lock()
	r.loss = 1
	r.mu.Unlock()
	run := bytes.Repeat(frame(1000, 1), 1000)
	done := make(chan error, 1)
	go func() { done <- client.Write(run, nil) }()
	select {
	case err := <-done:
		t.Error("all was taken:", err)
	case <-time.After(300 * time.Millisecond):
	}
	begin := time.Now()
	client.Close()
	if took := time.Since(begin); took > lingerTime {
		t.Errorf("Close took %s", took)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
}

// Close ends what waits here with net.ErrClosed, and there with io.EOF.
func TestClose(t *testing.T) {
	noGoroutines(t)
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			a, b := pair(t)
			if who == "server" {
				a, b = b, a
			}
			here, there := make(chan error, 1), make(chan error, 1)
			go func() { _, _, _, err := a.Fill(); here <- err }()
			go func() { _, _, _, err := b.Fill(); there <- err }()
			begin := time.Now()
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > lingerTime {
				t.Errorf("Close took %s without last words", took)
			}
			var op *net.OpError
			if err := <-here; !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) || op.Net != "quic" {
				t.Errorf("here: %v", err)
			}
			if err := <-there; err != io.EOF {
				t.Errorf("there: %v", err)
			}
			if err := a.Close(); err != nil {
				t.Error("second Close:", err)
			}
			<-b.conn.ended()
			if _, err := b.TryWrite(frame(100, 1)); err != io.EOF {
				t.Errorf("TryWrite there: %v", err)
			}
		})
	}
}

// Last words are read before the end.
func TestLastWords(t *testing.T) {
	noGoroutines(t)
	for range 20 {
		client, server := pair(t)
		bye := proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown})
		write(t, server, bye)
		begin := time.Now()
		server.Close()
		if took := time.Since(begin); took >= lingerTime {
			t.Errorf("Close took %s, though the other end reads", took)
		}
		if got := read(t, client, len(bye)); !bytes.Equal(got, bye) {
			t.Errorf("got %x", got)
		}
		if _, _, _, err := client.Fill(); err != io.EOF {
			t.Errorf("behind them: %v", err)
		}
		client.Close()
	}
}

// Who vanishes is not waited for, but for lingerTime.
func TestLastWordsToNobody(t *testing.T) {
	noGoroutines(t)
	var r *relay
	client, server := pairBy(t, func(g netip.AddrPort) netip.AddrPort { r = newRelay(t, g, 0); return r.addr() })
	r.mu.Lock()
	r.loss = 1
	r.mu.Unlock()
	write(t, server, proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown}))
	begin := time.Now()
	server.Close()
	if took := time.Since(begin); took < lingerTime || took > patience {
		t.Errorf("Close took %s", took)
	}
	client.Close()
}

// A NAT that forgets gives the client another address; the gateway follows, and items of every length pass.
func TestRebinding(t *testing.T) {
	noGoroutines(t)
	var r *relay
	client, server := pairBy(t, func(g netip.AddrPort) netip.AddrPort { r = newRelay(t, g, 0); return r.addr() })
	for range 3 {
		before := server.RemoteAddr().String()
		r.rebind(t)
		// Datagrams may be lost meanwhile; words are not.
		write(t, client, append(frame(1000, 1), request()...))
		read(t, server, proto.ControlLen)
		reply := proto.AppendAttached(nil, proto.AttachedMessage{Known: true, Received: 7})
		write(t, server, reply)
		for got := []byte(nil); !bytes.Contains(got, reply); {
			got = append(got, read(t, client, 1)...)
		}
		deadline := time.Now().Add(patience)
		for server.RemoteAddr().String() == before {
			if time.Now().After(deadline) {
				t.Fatal("the gateway does not follow")
			}
			write(t, client, request()) // to follow, it has to hear of it
			read(t, server, 1)
		}
		if server.RemoteAddr().Network() != "quic" {
			t.Error(server.RemoteAddr().Network())
		}
	}
}

// What was packed for a path that has become narrower goes in fragments.
func TestNarrowerPath(t *testing.T) {
	client, server := pair(t)
	client.sender.limit.Store(4000)
	item := frame(3000, 5)
	write(t, client, join(number(7), item, ack(1), frame(50, 1), ping(2000)))
	got := receiver{data: map[uint64][]byte{}}
	for len(got.data) < 2 || len(got.rest) == 0 {
		buf, start, end, err := server.Fill()
		if err != nil {
			t.Fatal(err)
		}
		got.datagram(t, buf[start:end])
		server.Consume(end - start)
	}
	if !bytes.Equal(got.data[7], item) || !bytes.Equal(got.data[8], frame(50, 1)) || len(got.rest) != 1 {
		t.Errorf("%d items and %d others came, or they differ", len(got.data), len(got.rest))
	}
	waitFor(t, "the ping is dropped", func() bool { return client.Dropped() == 1 })
}

// With what is found out about the path datagrams become longer, as they are sent and when Max is asked for; an item of that
// length passes in one.
func TestMaxGrows(t *testing.T) {
	client, server := pair(t)
	first := client.sender.limit.Load()
	for deadline := time.Now().Add(patience); client.sender.limit.Load() < 1300; {
		if time.Now().After(deadline) {
			t.Fatalf("from %d to %d, want 1300", first, client.sender.limit.Load())
		}
		write(t, client, join(ack(1), request()))
		read(t, server, proto.ControlLen)
	}
	for deadline := time.Now().Add(patience); server.Max() < 1300; {
		if time.Now().After(deadline) {
			t.Fatalf("down only %d", server.Max())
		}
		write(t, server, request())
		read(t, client, proto.ControlLen)
	}
	item := frame(client.Max(), 1)
	write(t, client, item) // behind acks that nobody has read
	if got := read(t, server, len(item)); !bytes.HasSuffix(got, item) {
		t.Errorf("%d bytes came", len(got))
	}
}

// What is not consumed stays in front of what comes.
func TestConsumeInParts(t *testing.T) {
	client, server := pair(t)
	var sent, got []byte
	for i := range uint64(20) {
		m := proto.AppendSwitch(nil, proto.SwitchMessage{Epoch: i})
		sent = append(sent, m...)
		write(t, client, m)
		buf, start, end, err := server.Fill()
		if err != nil {
			t.Fatal(err)
		}
		n := min(5, end-start)
		got = append(got, buf[start:start+n]...)
		server.Consume(n)
		if i == 19 {
			got = append(got, buf[start+n:end]...)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("got %x, want %x", got, sent)
	}
}

// An idle link holds no memory for what it may send or receive.
func TestIdleLinkHoldsNoMemory(t *testing.T) {
	client, server := pair(t)
	write(t, client, join(number(3), frame(1000, 1), request()))
	read(t, server, 1000+proto.ControlLen)
	go func() { _, _, _, _ = server.Fill() }()
	waitFor(t, "nothing is held", func() bool {
		s := &client.sender
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.items.batch == nil && s.words == nil && s.spare == nil && !s.pumpItems && !s.pumpWords && server.inbox.Len() == 0
	})
}

// What is no word ends the connection that brings it on the stream.
func TestDataOnTheStream(t *testing.T) {
	noGoroutines(t)
	for name, b := range map[string][]byte{"short": frame(100, 1), "long": frame(60000, 1)[:10000], "nothing known": []byte("????????????????????")} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t)
			if _, err := client.conn.stream.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := server.Fill(); !errors.Is(err, errNotOnStream) && !errors.Is(err, proto.ErrNotIP) {
				t.Errorf("got %v", err)
			}
			if err := end(t, client); err != io.EOF {
				t.Errorf("the other end: %v", err)
			}
		})
	}
}
