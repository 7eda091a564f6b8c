package datagram

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// ErrHandshake is returned, with the cause, for a handshake that did not succeed.
var ErrHandshake = errors.New("TLS handshake")

// smallestMax is the least that a transport has to carry: a handshake would take forever.
const smallestMax = 80

var levelOf = map[tls.QUICEncryptionLevel]int{
	tls.QUICEncryptionLevelInitial: levelInitial, tls.QUICEncryptionLevelHandshake: levelHandshake, tls.QUICEncryptionLevelApplication: levelData,
}

// shake makes the handshake, until ctx is done. It belongs to the reading goroutine.
func (l *Link) shake(ctx context.Context, c *tls.Config, own parameters) (tls.ConnectionState, error) {
	side := tls.QUICServer
	if l.isClient {
		side = tls.QUICClient
	}
	q := side(&tls.QUICConfig{TLSConfig: c})
	q.SetTransportParameters(appendParameters(own))
	l.tls = q
	defer func() {
		_ = q.Close()
		l.tls = nil
	}()
	err := l.initial()
	if err == nil {
		err = q.Start(ctx)
	}
	for err == nil {
		if err = l.events(); err != nil || l.complete {
			break
		}
		l.flushDue = true
		err = l.await(ctx)
	}
	if err != nil {
		l.refuse(err)
		return tls.ConnectionState{}, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	l.established()
	return q.ConnectionState(), nil
}

// initial makes the keys of the first packets.
func (l *Link) initial() error {
	in, out, err := initialSecrets(l.client)
	if err != nil {
		return err
	}
	if l.isClient {
		in, out = out, in
	}
	return errors.Join(l.keyIn(levelInitial, in), l.keyOut(levelInitial, out))
}

func (l *Link) keyIn(at int, s secret) error {
	if at == levelHandshake {
		l.again()
	}
	return l.levels[at].in.set(s)
}

func (l *Link) keyOut(at int, s secret) error {
	k, err := s.key()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.levels[at].out = sealer{secret: s, key: k}
	return err
}

// await treats one datagram.
func (l *Link) await(ctx context.Context) error {
	for {
		if p := l.next(); p != nil {
			l.packet(p)
			return nil
		}
		l.flushed()
		if err := l.failure(); err != nil {
			return err
		}
		select {
		case <-l.wake:
		case <-l.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// events does what crypto/tls wants, and gives it what has come.
func (l *Link) events() error {
	for {
		for {
			e := l.tls.NextEvent()
			if e.Kind == tls.QUICNoEvent {
				break
			}
			if err := l.event(e); err != nil {
				return err
			}
		}
		fed, err := l.feed()
		if err != nil || !fed {
			return err
		}
	}
}

func (l *Link) event(e tls.QUICEvent) error {
	switch e.Kind {
	case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
		s, err := newSecret(e.Suite, e.Data)
		switch {
		case err != nil:
			return err
		case e.Kind == tls.QUICSetReadSecret:
			return l.keyIn(levelOf[e.Level], s)
		}
		return l.keyOut(levelOf[e.Level], s)
	case tls.QUICWriteData:
		l.mu.Lock()
		defer l.mu.Unlock()
		at := levelOf[e.Level]
		l.levels[at].sending.add(e.Data, l.piece(at), time.Now())
	case tls.QUICTransportParameters:
		return l.told(e.Data)
	case tls.QUICHandshakeDone:
		l.complete = true
	case tls.QUICErrorEvent:
		return e.Err
	}
	return nil
}

// feed gives crypto/tls what has come of a stream of the handshake. It tells whether there was something.
func (l *Link) feed() (bool, error) {
	for _, at := range []tls.QUICEncryptionLevel{tls.QUICEncryptionLevelInitial, tls.QUICEncryptionLevelHandshake} {
		s := &l.levels[levelOf[at]].stream
		if len(s.ready) > 0 {
			b := s.ready
			s.ready = nil
			return true, l.tls.HandleData(at, b)
		}
	}
	return false, nil
}

// told takes the parameters of the other end.
func (l *Link) told(b []byte) error {
	p, ok := parseParameters(b)
	if !ok || p.max < smallestMax || !l.isClient && p.id != l.client {
		return errors.New("the parameters of the other end are malformed")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peer, l.max = p.id, min(l.max, p.max)
	l.token, l.hasToken = p.token, l.isClient
	return nil
}

// established ends the handshake.
func (l *Link) established() {
	l.limit.Store(queueBytes)
	l.mu.Lock()
	l.pack.max = l.max
	at := l.path.at
	if !l.isClient { // the client has shown that it is there, and done
		l.path.prove()
		l.shaken, l.confirmed = true, true
		l.forget()
		l.levels[levelData].ackDue = true
	}
	l.mu.Unlock()
	if !l.isClient {
		l.e.proven(at)
	}
	l.flush()
}

// refuse tells the other end why there is no connection.
func (l *Link) refuse(err error) {
	var alert tls.AlertError
	switch {
	case errors.As(err, &alert):
	case l.failure() != nil:
		return
	default:
		alert = 80 // internal_error (RFC 8446, section 6.2)
	}
	if l.levelsReady() {
		l.say(&frame{kind: frameClose, alert: byte(alert)})
	}
	l.fail(err)
}

// long treats a packet of the handshake.
func (l *Link) long(p []byte) {
	h, ok := parseLong(p)
	at := levelInitial
	if h.kind == typeHandshake {
		at = levelHandshake
	}
	v := &l.levels[at]
	switch {
	case !ok || h.id != l.client:
		l.e.drop(DropMalformed)
		return
	case l.complete && !l.isClient: // it does not know that we are done
		l.ackAgain()
		return
	case !l.isClient:
		l.came(len(p))
	}
	if v.in.key == nil {
		l.tooEarly()
		return
	}
	b, err := v.in.open(l.scratch[:0], p, h.len, h.number)
	if err != nil {
		l.e.drop(DropForged)
		return
	}
	l.scratch = b
	l.tally(&l.received, len(p))
	if at == levelHandshake && !l.isClient {
		l.seen()
	}
	if l.frames(b, at, h.number) != len(b) {
		l.e.drop(DropMalformed)
	}
}

// came counts bytes of a client, as many of which may go back.
func (l *Link) came(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path.credit += n
	l.flushDue = true
}

// seen notes that the client has answered to what it was sent: it is where it says.
func (l *Link) seen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path.prove()
}

// ackAgain acknowledges once more: by keys that only come with the end of the handshake.
func (l *Link) ackAgain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.levels[levelData].ackDue = true
	l.flushDue = true
}

// retry begins anew, with a cookie. It counts once, and before the gateway has said anything else.
func (l *Link) retry(p []byte) {
	id, cookie, ok := parseFixed(p, typeRetry, retryLen)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok || id != l.client || !l.isClient || l.cookie != nil || l.levels[levelInitial].stream.next > 0 {
		l.e.drop(DropMalformed)
		return
	}
	l.cookie = append([]byte(nil), cookie...)
	s := &l.levels[levelInitial].sending
	s.split(l.piece(levelInitial))
	s.again()
	l.flushDue = true
}

// unknown ends the connection, if the gateway says so.
func (l *Link) unknown(p []byte) {
	id, token, ok := parseFixed(p, typeUnknown, lostLen)
	l.mu.Lock()
	genuine := ok && l.hasToken && id == l.peer && subtle.ConstantTimeCompare(token, l.token[:]) == 1
	l.mu.Unlock()
	if !genuine {
		l.e.drop(DropForged)
		return
	}
	l.fail(ErrLost)
}
