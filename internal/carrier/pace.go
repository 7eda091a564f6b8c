package carrier

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// grainTime is how long a link may need for what it is handed at once.
	grainTime = 5 * time.Millisecond
	// minGrain is what the slowest link is handed: a packet, or several short ones.
	minGrain = 2 << 10
	// notSlow is the rate in bytes a second from which on a link is not slow.
	notSlow = float64(sealPart) / (float64(grainTime) / float64(time.Second))
	// lookBytes is what a connection has written since the kernel was asked, before it is asked again.
	lookBytes = 8 << 10
	// tickTime is more than the kernel's clock is wrong by.
	tickTime = 10 * time.Millisecond
	// paceTime is how often a rate is reckoned at most.
	paceTime = 20 * time.Millisecond
)

// A Pace is how fast a link takes bytes, or gets them to the other end, while some wait. It belongs to the goroutine that writes. The zero value knows
// nothing yet.
type Pace struct {
	rate float64 // bytes a second; 0: not known

	// Of a link whose Write tells (Took): since the last reckoning.
	bytes int
	busy  time.Duration

	// Of a socket of TCP (see): what the kernel said last.
	looked time.Time
	passed uint64 // bytes that the kernel had taken
	every  time.Duration
	acked  uint64
	sent   uint64 // microseconds in which there was something to send
	unsent bool   // bytes waited
}

// Grain returns how many bytes are to be handed to a link at once: a power of two; 0: all there are, for it is not slow.
func (p *Pace) Grain() int {
	if p.rate == 0 {
		return 0
	}
	for n := minGrain; n < sealPart; n *= 2 {
		if float64(2*n) > p.rate*grainTime.Seconds() {
			return n
		}
	}
	return 0
}

// Took notes that Write had n bytes, and needed the time d for them.
func (p *Pace) Took(n int, d time.Duration) {
	p.bytes += n
	p.busy += d
	if p.busy < paceTime && p.bytes < 4*sealPart {
		return
	}
	rate := min(float64(p.bytes)/max(p.busy, time.Microsecond).Seconds(), 2*notSlow) // it may become slow at once
	if weight := max(float64(p.busy)/float64(4*paceTime), 0.25); p.rate > 0 && weight < 1 {
		rate = p.rate + (rate-p.rate)*weight
	}
	p.rate, p.bytes, p.busy = rate, 0, 0
}

// due tells whether it is time to ask the kernel, which has taken so many bytes in all. Few can not wait for long, and asking takes memory.
func (p *Pace) due(passed uint64, now time.Time) bool {
	if passed-p.passed < lookBytes || now.Sub(p.looked) < p.every {
		return false
	}
	p.passed = passed
	return true
}

// see notes what the kernel says of a socket (TCP_INFO, linux/tcp.h). Where bytes waited at two looks in a row, and there was something to send between them,
// what was acknowledged says how fast it is, and otherwise that it is no slower.
func (p *Pace) see(now time.Time, i *unix.TCPInfo) {
	since := now.Sub(p.looked)
	sent := time.Duration(i.Busy_time-p.sent) * time.Microsecond
	waited := p.unsent && i.Notsent_bytes > 0 && sent+tickTime >= since*9/10
	rate := float64(i.Bytes_acked-p.acked) / since.Seconds()
	switch {
	case p.looked.IsZero() || !waited && rate <= p.rate || !waited && p.rate == 0:
	case rate > p.rate:
		p.rate = rate
	default:
		p.rate += (rate - p.rate) / 4
	}
	p.looked, p.acked, p.sent, p.unsent = now, i.Bytes_acked, i.Busy_time, i.Notsent_bytes > 0
	p.every = max(paceTime, time.Duration(i.Rtt)*time.Microsecond)
}

// Paced returns a connection that keeps little unsent in the kernel while it is slow, as Stream does: for carriers that write to conn from under a protocol
// of their own (TLS, SSH). Its writes come one at a time, as theirs do. A conn without a descriptor is returned as it is.
func Paced(conn net.Conn) net.Conn {
	raw := rawConn(conn)
	if raw == nil {
		return conn
	}
	return &paced{conn, raw, NewStream(conn)}
}

type paced struct {
	net.Conn
	raw syscall.RawConn
	out *Stream // only written to
}

func (p *paced) Write(b []byte) (int, error) {
	p.out.Grain()
	if err := p.out.Write(b, nil); err != nil {
		return 0, err
	}
	return len(b), nil
}

// NetConn returns the connection beneath, as that of tls.Conn does.
func (p *paced) NetConn() net.Conn { return p.Conn }

// SyscallConn implements syscall.Conn.
func (p *paced) SyscallConn() (syscall.RawConn, error) { return p.raw, nil }
