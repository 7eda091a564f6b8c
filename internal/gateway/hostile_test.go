package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// fragments cuts what is to be one data item into two parts.
func fragments(number uint64, item []byte) (b []byte) {
	half := (len(item) + 1) / 2
	for at := 0; at < len(item); at += half {
		b = proto.AppendFragment(b, proto.FragmentMessage{Number: number, Offset: at, Len: len(item), Part: item[at:min(at+half, len(item))]})
	}
	return b
}

// What is put together of fragments is one data item, or nothing: its header decides what the next client reads.
func TestFragmentsOfNonsense(t *testing.T) {
	packet := ipPacket("10.0.3.7", "10.0.3.8")
	frame := append(make([]byte, proto.DataHeaderLen), packet...)
	proto.PutBareHeader(frame, len(packet))
	goodbye, short, long := bytes.Clone(frame), bytes.Clone(frame), bytes.Clone(frame)
	goodbye[0] = proto.AppendGoodbye(nil, proto.GoodbyeMessage{})[0]
	binary.BigEndian.PutUint16(short[2:], 10)
	binary.BigEndian.PutUint16(long[2:], 100)
	for _, tt := range []struct {
		name   string
		super  bool
		item   []byte
		passes bool
	}{
		{"a data frame", true, frame, true},
		{"a packet", true, packet, true},
		{"a data frame, which was not agreed upon", false, frame, false},
		{"one byte of a frame", true, frame[:1], false},
		{"a goodbye", true, goodbye, false},
		{"a frame that is longer than it says", true, short, false},
		{"a frame that is shorter than it says", true, long, false},
		{"two packets", true, append(bytes.Clone(packet), packet...), false},
		{"a request", true, request("10.0.3.9", 0), false},
	} {
		withKey(t, func(l *lab) error {
			cam, err := l.add("cam1", "10.0.3.7")
			if err != nil {
				return err
			}
			hub, err := l.add("hub", "10.0.3.8")
			if err != nil {
				return err
			}
			features := sessionFeatures
			if tt.super {
				features |= proto.FeatureSuper
			}
			one := l.dialTLS(identity.Tunnel, cam)
			one.send(request("", features))
			l.settle()
			other := l.dialTLS(identity.Tunnel, hub)
			other.send(request("", proto.FeatureGoodbye|proto.FeatureSuper))
			l.settle()
			other.take()
			one.take()
			one.send(fragments(0, tt.item))
			l.settle()
			got, ended := other.take()
			if passes := bytes.HasSuffix(got, packet); passes != tt.passes || ended || !passes && len(got) > 0 {
				return fmt.Errorf("%s: the other client got %x", tt.name, got)
			}
			if _, ended := one.take(); ended == tt.passes {
				return fmt.Errorf("%s: connection ended %v", tt.name, ended)
			}
			return nil
		})
	}
}

// A narrow link carries datagrams, and notes the calls in which it was cut off in the middle of an item.
type narrow struct {
	carrier.Link
	calls, cut int
}

func (n *narrow) Max() int                     { return 1400 }
func (n *narrow) RemoteAddr() net.Addr         { return &net.UDPAddr{} }
func (n *narrow) TryWrite([]byte) (int, error) { return 0, nil }
func (n *narrow) Held() int                    { return 0 }

func (n *narrow) Grain() int { return 0 }
func (n *narrow) Write(b []byte, _ func()) error {
	n.calls++
	for len(b) > 0 {
		size, err := proto.NextItem(b)
		if err != nil || size == 0 {
			n.cut++
			return nil
		}
		b = b[size:]
	}
	return nil
}

// What waits for a carrier of datagrams stays in whole items: it can not send half of one.
func TestDatagramsGetWholeItems(t *testing.T) {
	withKey(t, func(l *lab) error {
		link := new(narrow)
		p := newPeer(l.g, 1, link, identity.NewKey().Public(), nil, time.Now())
		item := make([]byte, 1000)
		copy(item, ipPacket("10.0.3.7", "10.0.3.8"))
		binary.BigEndian.PutUint16(item[2:], uint16(len(item)))
		for range 20 {
			p.queue.Send(item)
			p.queue.Send(proto.AppendAck(nil, 1))
		}
		p.queue.Finish(proto.AppendAck(nil, 2))
		err := p.queue.Run()
		if link.calls == 0 || link.cut > 0 {
			return fmt.Errorf("%d of %d calls had a part of an item, %v", link.cut, link.calls, err)
		}
		return err
	})
}

// A goodbye ends a session with all its paths, whichever of them it comes by.
func TestGoodbyeEndsAllPaths(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		two := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 1})
		one.send(proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown}))
		l.settle()
		if _, closed := two.known(); !closed || l.left() != 0 {
			return fmt.Errorf("the other path is closed: %v; %d sessions and owners are left", closed, l.left())
		}
		return nil
	})
}

// A path of a session has its address: who asks for another one there gets nothing, and leaves nothing behind.
func TestPathAsksForNoAddress(t *testing.T) {
	hello := proto.AppendHello(nil, proto.HelloMessage{Name: "x"})
	for _, tt := range []struct {
		name          string
		before, after []byte
	}{
		{"a request", nil, request("", sessionFeatures)},
		{"a request for another address", nil, request("10.0.3.9", sessionFeatures)},
		{"a hello for a request before", request("", sessionFeatures|proto.FeatureHello), hello},
	} {
		withKey(t, func(l *lab) error {
			cam, err := l.add("cam1", "10.0.3.7", "10.0.3.9")
			if err != nil {
				return err
			}
			one, session, err := l.begin(cam)
			if err != nil {
				return err
			}
			two := l.dialTLS(identity.Tunnel, cam)
			two.send(append(bytes.Clone(tt.before), proto.AppendAttach(nil, proto.AttachMessage{Session: session, Epoch: 1})...))
			l.settle()
			if known, closed := two.known(); !known || closed {
				return fmt.Errorf("%s: known %v, closed %v", tt.name, known, closed)
			}
			two.send(tt.after)
			l.settle()
			if _, closed := two.known(); !closed {
				return fmt.Errorf("%s: was answered", tt.name)
			}
			one.send(proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown}))
			l.settle()
			if n := l.left(); n != 0 {
				return fmt.Errorf("%s: %d sessions and owners are left", tt.name, n)
			}
			return nil
		})
	}
}

// A path that was only suspected gets no copy any more when the client says so, though another one stays in use.
func TestCopyEnds(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		hub, err := l.add("hub", "10.0.3.8")
		if err != nil {
			return err
		}
		two := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 1})
		other := l.join(hub, "")
		for turn, again := range []bool{true, false} {
			two.send(proto.AppendSwitch(nil, proto.SwitchMessage{Epoch: 1, Turn: uint64(turn) + 1, Again: again}))
			l.settle()
			one.take()
			two.take()
			other.send(ipPacket("10.0.3.8", "10.0.3.7"))
			l.settle()
			if copied := one.of(proto.KindIPv4) != nil; two.of(proto.KindIPv4) == nil || copied != again {
				return fmt.Errorf("again %v: a copy %v", again, copied)
			}
		}
		return nil
	})
}

// A path is judged by the deadlines that its session was told of, also if the configuration has shorter ones by now.
func TestPathKeepsDeadlines(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, _ *raw, session proto.SessionID) error {
		c := *l.g.c()
		c.IdleTimeout = 10 * time.Second
		l.g.inForce.Store(&c)
		two := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 1, Use: true})
		time.Sleep(15 * time.Second)
		if known, closed := two.known(); !known || closed {
			return fmt.Errorf("known %v, closed %v after 15 s", known, closed)
		}
		time.Sleep(time.Minute)
		if _, closed := two.known(); !closed {
			return errors.New("it was never closed")
		}
		return nil
	})
}

// A device has no more paths than it can use: the oldest one goes that is not in use.
func TestPathsAreBounded(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		var all []*raw
		for epoch := uint64(1); epoch <= maxPaths+8; epoch++ {
			all = append(all, l.attach(cam, proto.AttachMessage{Session: session, Epoch: epoch}))
		}
		if _, closed := one.known(); closed {
			return errors.New("the path in use was closed")
		}
		for i, r := range all {
			if known, closed := r.known(); !known || closed != (i < len(all)-maxPaths+1) {
				return fmt.Errorf("path %d: known %v, closed %v", i+1, known, closed)
			}
		}
		return nil
	})
}

// An operator may ask for a report at any moment (with -race).
func TestReportWhileAttaching(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, _ *raw, session proto.SessionID) error {
		var all []*raw
		for range 10 {
			all = append(all, l.dialTLS(identity.Tunnel, cam))
		}
		l.settle()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 1000 {
				l.g.report("report")
			}
		}()
		for i, r := range all {
			r.send(proto.AppendAttach(nil, proto.AttachMessage{Session: session, Epoch: uint64(i) + 1}))
		}
		<-done
		l.settle()
		return nil
	})
}

// What comes by a path that was used before waits for what is still on its way by the other one, as on a new path.
func TestSwitchBackIsInOrder(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		hub, err := l.add("hub", "10.0.3.8")
		if err != nil {
			return err
		}
		two := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 1})
		other := l.join(hub, "")
		other.take()
		two.send(proto.AppendSwitch(nil, proto.SwitchMessage{Epoch: 1, Turn: 1}))
		l.settle()
		late, next := ipPacket("10.0.3.7", "10.0.3.8"), ipPacket("10.0.3.7", "10.0.3.8")
		next[21] = 1
		one.send(append(proto.AppendNumber(proto.AppendSwitch(nil, proto.SwitchMessage{Next: 1, Turn: 2}), 1), next...))
		time.Sleep(10 * time.Millisecond)
		two.send(append(proto.AppendNumber(nil, 0), late...))
		time.Sleep(10 * time.Millisecond)
		return other.want("both", append(bytes.Clone(late), next...), false)
	})
}

// An IPv6 packet is dropped, but it has a number: what follows is acknowledged.
func TestIPv6HasANumber(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, _ proto.SessionID) error {
		ip6 := make([]byte, 40)
		ip6[0] = 0x60
		one.send(append(ip6, ipPacket("10.0.3.7", "10.0.0.1")...))
		time.Sleep(time.Second)
		if ack := one.of(proto.KindAck); !bytes.Equal(ack, proto.AppendAck(nil, 2)) {
			return fmt.Errorf("acknowledged %x, want 2 frames", ack)
		}
		return nil
	})
}
