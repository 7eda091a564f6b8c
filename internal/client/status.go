package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/unix"
	"ferry/internal/failover"
	"ferry/internal/identity"
	"ferry/internal/policy"
)

// How a client does is asked by an abstract unix socket, which is named after the interface: it belongs to the
// network namespace, as the interface does, and is gone with the process.
//
//	vpncli status                     vpncli
//	is it root's, or mine? (SO_PEERCRED of who listens)
//	"status\n" -------------------->  is it root, or me? (SO_PEERCRED of who connects)
//	         <----------------------  Status in JSON, and the end
//
// Anybody may take a name and anybody may connect, so both ends look who is there. It is no HTTP, which would
// add 1.5 MiB to vpncli.

const (
	socketPrefix = "@ferry/vpncli/"
	question     = "status\n"
	askTimeout   = 2 * time.Second
	maxStatus    = 1 << 20 // bytes
	maxFaults    = 5
)

// A Status is how a client does.
type Status struct {
	Version   string    `json:"version"`
	Pid       int       `json:"pid"`
	Started   time.Time `json:"started"`
	Interface string    `json:"interface"`

	State       EventKind     `json:"state"`
	Since       time.Time     `json:"since"` // of the state
	Server      string        `json:"server"`
	Peer        string        `json:"peer,omitempty"`        // the address that Server was, when it was connected last
	Fingerprint *identity.Pin `json:"fingerprint,omitempty"` // of the gateway; nil: anybody may be it
	Protocol    string        `json:"protocol,omitempty"`    // "ferry" or "2013"
	Secure      bool          `json:"secure"`
	Carrier     string        `json:"carrier,omitempty"`  // the scheme of the URL by which it is connected
	Switched    *Switch       `json:"switched,omitempty"` // nil: it was never another one
	// Ways are all by which the gateway may be reached, and how they do.
	Ways        []failover.WayStatus `json:"ways,omitempty"`
	Connections int                  `json:"connections"` // how often it was connected
	RetryAt     time.Time            `json:"retry_at,omitzero"`
	RTT         float64              `json:"rtt,omitempty"` // seconds, as measured last

	// What is on the interface, also while there is no connection.
	Address netip.Addr       `json:"address,omitzero"`
	Prefix  netip.Prefix     `json:"prefix,omitzero"`
	Gateway netip.Addr       `json:"gateway,omitzero"`
	MTU     int              `json:"mtu,omitempty"`
	Routes  []netip.Prefix   `json:"routes"`
	Refused []policy.Refusal `json:"refused,omitempty"` // of what the gateway has pushed

	Forwards []ForwardStatus   `json:"forwards,omitempty"`
	Proxies  map[string]uint64 `json:"proxies,omitempty"` // what SOCKS5 and HTTP proxies, and connections without an interface, have refused, dropped or reset, by reason
	// Published are the services that the gateway was told of, and Unpublished those that it was not, by the reason; nil: there are to be none.
	Published   []string          `json:"published,omitempty"`
	Unpublished map[string]uint64 `json:"unpublished,omitempty"`

	Sent     Traffic           `json:"sent"`
	Received Traffic           `json:"received"`
	Drops    map[string]uint64 `json:"drops"`
	Faults   []Fault           `json:"last_errors"` // the newest one last
}

// Traffic is what passed the tunnel in one direction since the start; a super-packet is one packet.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// A Switch is a change from one connection to another, with which the tunnel has gone on.
type Switch struct {
	Time   time.Time `json:"time"`
	To     string    `json:"to"`
	Reason string    `json:"reason"`
}

// A Fault is why there was no connection.
type Fault struct {
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
}

// A story is what a Status has of the past.
type story struct {
	mu sync.Mutex
	s  Status
}

func newStory(c *Config, name string) *story {
	st := &story{s: Status{Version: c.Version, Pid: os.Getpid(), Started: time.Now(), Interface: name, State: EventConnecting, Since: time.Now(), Routes: []netip.Prefix{}, Faults: []Fault{}}}
	if pin := c.Gateway; pin != (identity.Pin{}) {
		st.s.Fingerprint = &pin
	}
	return st
}

// note adds an event.
func (st *story) note(e Event) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s := &st.s
	if e.Kind == EventAddress || e.Kind == EventForward { // it is connected still, or not yet
		return
	}
	if e.Kind == EventConnecting && s.State == EventConnected { // one more way, beside the one in use
		return
	}
	if e.Kind == EventSwitched {
		s.Peer, s.Carrier, s.Server = e.Server, e.Carrier, e.Way
		s.Switched = &Switch{e.Time, e.Way, e.Reason}
		return
	}
	s.State, s.Since, s.RetryAt = e.Kind, e.Time, time.Time{}
	switch e.Kind {
	case EventConnecting:
		s.Server = e.Server
	case EventConnected:
		s.Connections++
		s.Peer, s.Protocol, s.Secure, s.Carrier = e.Server, e.Protocol, e.Secure, e.Carrier
		if e.Way != "" {
			s.Server = e.Way
		}
		s.Address, s.Prefix, s.Gateway, s.MTU = e.Address, e.Prefix, e.Gateway, e.MTU
	case EventReconnecting:
		s.RetryAt = e.Time.Add(time.Duration(e.RetryIn * float64(time.Second)))
		s.Faults = append(s.Faults, Fault{e.Time, e.Reason})
		s.Faults = slices.Clone(s.Faults[max(len(s.Faults)-maxFaults, 0):])
	}
}

func (st *story) setRoutes(taken []netip.Prefix, refused []policy.Refusal) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.s.Routes, st.s.Refused = append([]netip.Prefix{}, taken...), refused
}

func (st *story) setPin(pin identity.Pin) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.s.Fingerprint = &pin
}

// address is this device's in the tunnel; not valid: it has none yet.
func (st *story) address() netip.Addr {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.s.Address
}

func (st *story) setRTT(d time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.s.RTT = d.Seconds()
}

// status is how the client does now.
func (c *client) status() Status {
	c.story.mu.Lock()
	s := c.story.s
	c.story.mu.Unlock()
	all, sent := c.total.Stats(), c.exit.Port().Stats()
	s.Sent = Traffic{sent.Packets, sent.Bytes}
	s.Received = Traffic{all.Packets - min(sent.Packets, all.Packets), all.Bytes - min(sent.Bytes, all.Bytes)}
	s.Drops = all.Drops
	s.Forwards = c.forwards.status()
	if c.c.Proxies != nil {
		s.Proxies = c.c.Proxies()
	}
	c.announcer.show(&s)
	if c.ways != nil {
		s.Ways = c.ways()
	}
	return s
}

// listenStatus takes the name of an interface. The client goes on without it.
func listenStatus(ctx context.Context, name string, log *slog.Logger) net.Listener {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socketPrefix+name)
	if err != nil {
		log.Warn("'vpncli status' will not find this process", "err", err)
		return nil
	}
	return l
}

// answer tells those who may know how the client does, one after the other, until ctx is done. l may be nil.
func (c *client) answer(ctx context.Context, l net.Listener) {
	if l == nil {
		return
	}
	_ = carrier.Accept(ctx, l, c.log, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(askTimeout))
		if _, err := owner(conn); err == nil && isQuestion(conn) {
			_ = json.NewEncoder(conn).Encode(c.status())
		}
		_ = conn.Close()
	})
}

func isQuestion(conn net.Conn) bool {
	b := make([]byte, len(question))
	_, err := io.ReadFull(conn, b)
	return err == nil && string(b) == question
}

// A strangerError says that the other end of a socket is neither root's nor ours.
type strangerError uint32

func (e strangerError) Error() string { return fmt.Sprintf("it belongs to user %d", uint32(e)) }

// owner returns the user at the other end, who has to be root or our own.
func owner(conn net.Conn) (uint32, error) {
	uid, err := unix.From(conn)
	if err == nil && uid != 0 && int(uid) != os.Geteuid() {
		err = strangerError(uid)
	}
	return uid, err
}

// Ask asks the vpncli that has an interface how it does.
func Ask(ctx context.Context, name string) (s Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socketPrefix+name)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return s, fmt.Errorf("no vpncli is running with the interface %s%s", name, elsewhere())
	case err != nil:
		return s, fmt.Errorf("ask vpncli by the socket %s%s: %w", socketPrefix, name, err)
	}
	defer conn.Close()
	if _, err := owner(conn); err != nil {
		return s, fmt.Errorf("the socket %s%s is not to be believed: %w, not to root or to you", socketPrefix, name, err)
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	_, writeErr := io.WriteString(conn, question)
	b, err := io.ReadAll(io.LimitReader(conn, maxStatus))
	switch {
	case len(b) == 0 && (err == nil || errors.Is(err, syscall.ECONNRESET) || errors.Is(writeErr, syscall.EPIPE)):
		return s, fmt.Errorf("vpncli does not answer this user: run as root")
	case err != nil:
		return s, fmt.Errorf("ask vpncli by the socket %s%s: %w", socketPrefix, name, err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("vpncli answers nonsense: %w: is it of another version?", err)
	}
	return s, nil
}

func elsewhere() string {
	if names := Running(); len(names) > 0 {
		return "; there is one with " + strings.Join(names, ", ") + ": name it with --tun"
	}
	return " in this network namespace"
}

// Running are the interfaces of this network namespace for which somebody answers, as far as he says.
func Running() (names []string) {
	f, err := os.Open("/proc/self/net/unix")
	if err != nil {
		return nil
	}
	defer f.Close()
	strange := func(r rune) bool { // in what anybody may have called a socket
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r))
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		_, name, found := strings.Cut(lines.Text(), " "+socketPrefix)
		if found && name != "" && len(name) <= 15 && !strings.ContainsFunc(name, strange) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
