package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

const sessionFeatures = proto.FeatureSession | proto.FeatureConfig | proto.FeatureGoodbye | proto.FeaturePing

// items are what a raw client has got since it was asked last.
func (r *raw) items() (kinds []proto.Kind, list [][]byte, eof bool) {
	b, eof := r.take()
	for len(b) > 0 {
		kind, n, err := proto.Framer{FromServer: true, Extended: true}.Next(b)
		if err != nil || n == 0 {
			return append(kinds, 0), append(list, b), eof
		}
		kinds, list, b = append(kinds, kind), append(list, b[:n]), b[n:]
	}
	return kinds, list, eof
}

// of returns the last item of a kind; nil when there is none.
func (r *raw) of(kind proto.Kind) []byte {
	kinds, list, _ := r.items()
	for i := len(kinds) - 1; i >= 0; i-- {
		if kinds[i] == kind {
			return list[i]
		}
	}
	return nil
}

// begin connects a device, and returns the name of its session.
func (l *lab) begin(k identity.Key) (*raw, proto.SessionID, error) {
	r := l.dialTLS(identity.Tunnel, k)
	r.send(request("", sessionFeatures))
	l.settle()
	config := r.of(proto.KindConfig)
	if config == nil {
		return r, proto.SessionID{}, errors.New("no config frame")
	}
	c, err := proto.ParseConfig(config)
	if err == nil && c.Session == (proto.SessionID{}) {
		err = errors.New("no session")
	}
	return r, c.Session, err
}

// withSession is withKey with a device, "cam1" with the address 10.0.3.7, and the first path of its session.
func withSession(t *testing.T, f func(l *lab, cam identity.Key, first *raw, session proto.SessionID) error) {
	t.Helper()
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1", "10.0.3.7")
		if err != nil {
			return err
		}
		first, session, err := l.begin(cam)
		if err != nil {
			return err
		}
		return f(l, cam, first, session)
	})
}

// attach connects a device for one more path of a session.
func (l *lab) attach(k identity.Key, m proto.AttachMessage) *raw {
	r := l.dialTLS(identity.Tunnel, k)
	r.send(proto.AppendAttach(nil, m))
	l.settle()
	return r
}

// left returns how many sessions and owners of addresses there are.
func (l *lab) left() int {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return len(l.g.tunnels) + len(l.g.owners)
}

// known tells whether the gateway knew the session, and whether it has closed the connection.
func (r *raw) known() (known, closed bool) {
	kinds, list, eof := r.items()
	for i, kind := range kinds {
		if kind == proto.KindAttached {
			m, err := proto.ParseAttached(list[i])
			known = err == nil && m.Known
		}
	}
	return known, eof
}

// The session of a device goes on by another connection: packets that were on their way come there.
func TestSessionGoesOn(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		hub, err := l.add("hub", "10.0.3.8")
		if err != nil {
			return err
		}
		other := l.join(hub, "")
		_ = other.conn.SetDeadline(time.Time{})
		first, second, third := ipPacket("10.0.3.8", "10.0.3.7"), ipPacket("10.0.3.8", "10.0.3.7"), ipPacket("10.0.3.8", "10.0.3.7")
		first[21], second[21], third[21] = 1, 2, 3
		other.send(first)
		l.settle()
		if got := one.of(proto.KindIPv4); !bytes.Equal(got, first) {
			return fmt.Errorf("the first packet: got %x", got)
		}
		_ = one.conn.Close() // neither the client nor the network says so; what is sent now is lost
		other.send(second)
		l.settle()
		if n := len(l.g.sessions()); n != 2 {
			return fmt.Errorf("%d sessions, want the one that is away, too", n)
		}
		two := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 1, Received: 1, Use: true})
		other.send(third)
		l.settle()
		kinds, list, _ := two.items()
		var packets []byte
		for i, kind := range kinds {
			if kind == proto.KindIPv4 {
				packets = append(packets, list[i][21])
			}
		}
		if !bytes.Equal(packets, []byte{2, 3}) {
			return fmt.Errorf("packets %v came by the second connection (%v), want 2 and 3", packets, kinds)
		}
		// What the client sends is taken once, by whichever path it comes.
		other.take()
		up := ipPacket("10.0.3.7", "10.0.3.8")
		two.send(append(proto.AppendNumber(nil, 0), up...))
		two.send(append(proto.AppendNumber(nil, 0), up...))
		l.settle()
		return other.want("a packet that came twice", up, false)
	})
}

// Nobody takes a session over who has not got its key, its name and a fresh epoch; and those who try do it no harm.
// exam: U3
func TestAttachIsRefused(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		thief, err := l.add("thief", "10.0.3.8")
		if err != nil {
			return err
		}
		used := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 70})
		if known, closed := used.known(); !known || closed {
			return fmt.Errorf("the owner: known %v, closed %v", known, closed)
		}
		guessed := session
		guessed[15] ^= 1
		for _, tt := range []struct {
			name   string
			key    identity.Key
			m      proto.AttachMessage
			closed bool
		}{
			{"another device's key", thief, proto.AttachMessage{Session: session, Epoch: 90, Use: true}, false},
			{"a guess", cam, proto.AttachMessage{Session: guessed, Epoch: 90, Use: true}, false},
			{"used twice", cam, proto.AttachMessage{Session: session, Epoch: 70, Use: true}, true},
			{"much older", cam, proto.AttachMessage{Session: session, Epoch: 6, Use: true}, true},
			{"the first connection's epoch", cam, proto.AttachMessage{Session: session, Use: true}, true},
		} {
			r := l.attach(tt.key, tt.m)
			if known, closed := r.known(); known || closed != tt.closed {
				return fmt.Errorf("%s: known %v, closed %v; want it unknown, closed %v", tt.name, known, closed, tt.closed)
			}
		}
		overtaken := proto.AttachMessage{Session: session, Epoch: 7, Use: true}
		if known, closed := l.attach(cam, overtaken).known(); !known || closed {
			return fmt.Errorf("one that was overtaken: known %v, closed %v", known, closed)
		}
		if known, closed := l.attach(cam, overtaken).known(); known || !closed {
			return fmt.Errorf("the same once more: known %v, closed %v", known, closed)
		}
		// The victim goes on.
		one.send(proto.AppendPing(nil, []byte("still there")))
		l.settle()
		if one.of(proto.KindPong) == nil {
			return errors.New("the owner's session was harmed")
		}
		// Who is removed does not come back, however new his epoch.
		if _, err := l.g.removePeer("cam1"); err != nil {
			return err
		}
		l.settle()
		r := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 99, Use: true})
		if known, closed := r.known(); known || !closed {
			return fmt.Errorf("removed: known %v, closed %v", known, closed)
		}
		if n := l.left(); n != 0 {
			return fmt.Errorf("%d sessions are left", n)
		}
		return nil
	})
}

// A session that nobody comes back to ends, and its name opens nothing any more.
// exam: U3
func TestSessionEnds(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		_ = one.conn.Close()
		time.Sleep(settings.DefaultResume - time.Minute)
		two := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 1})
		if known, _ := two.known(); !known {
			return errors.New("the session has ended before its time")
		}
		_ = two.conn.Close()
		time.Sleep(settings.DefaultResume + time.Minute)
		if n := l.left(); n != 0 {
			return fmt.Errorf("%d sessions and owners of addresses are left", n)
		}
		three := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 2})
		if known, closed := three.known(); known || closed {
			return fmt.Errorf("a session that has ended: known %v, closed %v", known, closed)
		}
		three.send(request("", sessionFeatures)) // a new one
		l.settle()
		if three.of(proto.KindConfig) == nil {
			return errors.New("no new session")
		}
		return nil
	})
}

// However often a device comes back: its session ends when its time is over.
// exam: U4
func TestResumingProlongsNothing(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, path *raw, session proto.SessionID) error {
		began := time.Now()
		for epoch := uint64(1); epoch <= 100; epoch++ {
			_ = path.conn.Close()
			time.Sleep(time.Minute)
			path = l.attach(cam, proto.AttachMessage{Session: session, Epoch: epoch, Use: true})
			if known, _ := path.known(); !known {
				return fmt.Errorf("time %d: the session is unknown", epoch)
			}
		}
		var kinds []proto.Kind
		var list [][]byte
		for eof := false; !eof && time.Since(began) < settings.DefaultLifetime+time.Hour; {
			path.send(proto.AppendPing(nil, nil))
			time.Sleep(30 * time.Second)
			l.settle()
			kinds, list, eof = path.items()
		}
		if late := time.Since(began) - settings.DefaultLifetime; late < 0 || late > time.Minute || len(kinds) == 0 || kinds[len(kinds)-1] != proto.KindGoodbye {
			return fmt.Errorf("ended after %s, %v", time.Since(began), kinds)
		}
		g, err := proto.ParseGoodbye(list[len(list)-1])
		if g.Reason != proto.ReasonLifetime {
			return fmt.Errorf("ended for %s, %v", g.Reason, err)
		}
		return nil
	})
}

// The gateway follows its client to another path, and back.
func TestGatewayFollows(t *testing.T) {
	withSession(t, func(l *lab, cam identity.Key, one *raw, session proto.SessionID) error {
		hub, err := l.add("hub", "10.0.3.8")
		if err != nil {
			return err
		}
		two := l.attach(cam, proto.AttachMessage{Session: session, Epoch: 1})
		other := l.join(hub, "")
		packet := ipPacket("10.0.3.8", "10.0.3.7")
		comesBy := func(want, not *raw, what string) error {
			one.take()
			two.take()
			other.send(packet)
			l.settle()
			if want.of(proto.KindIPv4) == nil || not.of(proto.KindIPv4) != nil {
				return fmt.Errorf("%s: the packet does not come by the right path alone", what)
			}
			return nil
		}
		err = comesBy(one, two, "a path that stands by")
		for _, tt := range []struct {
			what      string
			m         proto.SwitchMessage
			want, not *raw
		}{
			{"after a switch", proto.SwitchMessage{Epoch: 1, Turn: 1}, two, one},
			{"back again", proto.SwitchMessage{Epoch: 0, Turn: 3}, one, two},
			{"a switch that was overtaken", proto.SwitchMessage{Epoch: 1, Turn: 2}, one, two},
			{"one that comes twice", proto.SwitchMessage{Epoch: 1, Turn: 3}, one, two},
		} {
			one.send(proto.AppendSwitch(nil, tt.m))
			l.settle()
			err = errors.Join(err, comesBy(tt.want, tt.not, tt.what))
		}
		two.send(proto.AppendSwitch(nil, proto.SwitchMessage{Epoch: 7, Turn: 4})) // nobody's
		l.settle()
		return errors.Join(err, comesBy(one, two, "an epoch that is nobody's"))
	})
}
