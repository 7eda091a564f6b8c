package failover

import (
	"cmp"
	"time"
)

// A Class is a kind of carrier; a lower one is preferred.
type Class uint8

// The classes, in the order in which they are tried.
const (
	ClassLocal    Class = iota // vsock, unix
	ClassDatagram              // quic, udp
	ClassTCP                   // tcp
	ClassWeb                   // tls, ws, connect-ip: what passes as a visit to a web site
	ClassSSH
	ClassICMP
	ClassDNS
)

func (c Class) String() string {
	return [...]string{"local", "datagram", "tcp", "web", "ssh", "icmp", "dns"}[c]
}

// A WayID is the index of a way in Config.Ways.
type WayID int

// A Way is a way to the gateway that may be tried.
type Way struct {
	Name     string // for people and for the Memory: "udp 192.0.2.1:2002"
	Class    Class
	Datagram bool // packets may be lost, and large ones alone
	Polling  bool // the gateway may only answer: what keeps it warm costs queries, and its round trip says little
	Full     int  // bytes of an echo of full size, at most 2048; 0: DefaultFull
}

// DefaultFull is the size of a full-size echo: what is left of 1500 bytes by most carriers.
const DefaultFull = 1400

// Config is everything that a Machine can be told. The zero value of a field means its default, which is what it says in
// the comment. It is not modified after New.
type Config struct {
	Ways []Way
	// Alone is for a gateway without sessions: a second connection would end the first one. So one way is tried at a
	// time, and nothing stands by.
	Alone bool
	Seed  uint64 // of all jitter

	Step     time.Duration // 250 ms: between the starts of attempts, when none fails
	StepICMP time.Duration // 500 ms: before one by icmp
	StepDNS  time.Duration // 1 s: before one by dns
	Dial     time.Duration // 5 s: longest attempt, up to Dialed
	Test     time.Duration // 5 s: longest test of a path, after Dialed
	Better   time.Duration // 300 ms: longest wait for a better class than the first one that succeeded
	Settle   time.Duration // 200 ms: from the last change of the network to the probes; four times that from the first one at most
	RetryMin time.Duration // 200 ms: first pause between two rounds
	RetryMax time.Duration // 30 s: longest one
	RetryDue time.Duration // 5 s: longest one while traffic is due
	Steady   time.Duration // 30 s: without a suspicion, after which the pauses begin anew

	Silence   time.Duration // 250 ms: least silence that makes a path suspect
	Pace      time.Duration // 200 ms: least time between two echoes to a suspect
	Stall     time.Duration // 1.5 s: least time without an acknowledgement, while other bytes come
	Busy      time.Duration // 1 s: between full-size echoes by the path in use while traffic is due, and by one on trial
	Keepalive time.Duration // 15 s: of silence, after which a small echo is sent
	Idle      time.Duration // 60 s: the same for a standby by a polling carrier

	Upgrade    time.Duration // 30 s: between tests of what may be better
	Clean      time.Duration // 10 s: that a better path must be clean before it is used
	Switch     time.Duration // 30 s: between two voluntary changes
	Flap       time.Duration // 5 min: in which at most two voluntary changes may turn out to be mistakes
	Faster     time.Duration // 10 ms: and 30 % is what a path must be faster
	Near       time.Duration // 5 ms: round trip under which tcp is preferred to datagrams, without loss
	PenaltyMin time.Duration // 5 s: for a way that died; doubles each time
	PenaltyMax time.Duration // 10 min
	Remember   time.Duration // 24 h: what worked on a network
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Step, 250 * time.Millisecond}, {&c.StepICMP, 500 * time.Millisecond}, {&c.StepDNS, time.Second},
		{&c.Dial, 5 * time.Second}, {&c.Test, 5 * time.Second}, {&c.Better, 300 * time.Millisecond}, {&c.Settle, 200 * time.Millisecond},
		{&c.RetryMin, 200 * time.Millisecond}, {&c.RetryMax, 30 * time.Second}, {&c.RetryDue, 5 * time.Second}, {&c.Steady, 30 * time.Second},
		{&c.Silence, 250 * time.Millisecond}, {&c.Pace, 200 * time.Millisecond}, {&c.Stall, 1500 * time.Millisecond},
		{&c.Busy, time.Second}, {&c.Keepalive, 15 * time.Second}, {&c.Idle, time.Minute},
		{&c.Upgrade, 30 * time.Second}, {&c.Clean, 10 * time.Second}, {&c.Switch, 30 * time.Second},
		{&c.Flap, 5 * time.Minute}, {&c.Faster, 10 * time.Millisecond}, {&c.Near, 5 * time.Millisecond},
		{&c.PenaltyMin, 5 * time.Second}, {&c.PenaltyMax, 10 * time.Minute}, {&c.Remember, 24 * time.Hour},
	} {
		*d.field = cmp.Or(*d.field, d.value)
	}
}

// maxFlaps is how many voluntary changes may turn out to be mistakes in Config.Flap.
const maxFlaps = 2

// step returns how long a way waits for the one before it to fail.
func (c *Config) step(w Way) time.Duration {
	switch w.Class {
	case ClassICMP:
		return c.StepICMP
	case ClassDNS:
		return c.StepDNS
	}
	return c.Step
}

// double returns least doubled n times, at most most.
func double(least, most time.Duration, n int) time.Duration {
	for ; n > 0 && least < most; n-- {
		least *= 2
	}
	return min(least, most)
}
