package vtunnel

import (
	"context"
	"net"
	"sync"
	"time"
)

// relayDatagrams copies what is read of a stream at once into one datagram, and datagrams behind each other into the stream, until
// one end is closed or the destination can not be reached. It closes both.
func relayDatagrams(ctx context.Context, s stream, first []byte, d *net.UDPConn) {
	end := func() {
		_ = s.Close() // in order: answers may be on their way
		_ = d.Close()
	}
	defer end()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		defer end()
		copyDatagrams(s, d, nil)
	})
	copyDatagrams(d, s, first)
	end()
	back.Wait()
}

// copyDatagrams writes what it reads at once, of first to begin with. A stream can not carry a datagram without bytes: it is left out.
func copyDatagrams(to, from net.Conn, first []byte) {
	b := make([]byte, maxDatagram) // what is longer is cut by the system
	var p pacer
	n := copy(b, first)
	for {
		if n > 0 {
			p.wait()
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		var err error
		if n, err = from.Read(b); err != nil {
			return
		}
	}
}

// A pacer keeps writes apart, which is all that keeps datagrams apart on this wire.
type pacer struct{ last time.Time }

func (p *pacer) wait() {
	if left := apart - time.Since(p.last); left > 0 {
		time.Sleep(left)
	}
	p.last = time.Now()
}
