package failover

import (
	"fmt"
	"strings"
	"time"
)

// A Kind is what an Action asks for.
type Kind uint8

// The kinds of actions.
const (
	Dial    Kind = iota // Way: connect and attach; report Dialed or Failed
	Abandon             // Way: cancel the attempt; report nothing of it any more
	Use                 // Path, Again, Also: multipath.Sender.Use; Start for the first one
	Echo                // Path, Size, Token: send a ping of Size bytes, which begins with the token; report its answer with Echo
	SetMTU              // Path, Size: pings of more bytes than Size do not pass; it may grow again
	Close               // Path: it is gone; report nothing of it any more
)

func (k Kind) String() string {
	return [...]string{"dial", "abandon", "use", "echo", "set mtu", "close"}[k]
}

// An Action is something for the shell to do.
type Action struct {
	Kind  Kind
	Way   WayID
	Path  PathID
	Also  PathID // gets a copy of what is new; 0: none
	Again bool   // what is not acknowledged goes by Path once more; else the change is planned, and loses nothing
	Size  int    // bytes
	Token uint64
	Why   string // for the log; empty for echoes
}

func (a Action) String() string {
	switch a.Kind {
	case Dial, Abandon:
		return fmt.Sprintf("%s way %d: %s", a.Kind, a.Way, a.Why)
	case Use:
		return fmt.Sprintf("use path %d, again %t, also %d: %s", a.Path, a.Again, a.Also, a.Why)
	case Echo:
		return fmt.Sprintf("echo %d by path %d, %d bytes", a.Token, a.Path, a.Size)
	}
	return fmt.Sprintf("%s path %d, %d bytes: %s", a.Kind, a.Path, a.Size, a.Why)
}

func (m *Machine) do(a Action) { m.actions = append(m.actions, a) }

// A WayStatus is how one way does, for 'vpncli status' and 'vpncli probe'.
type WayStatus struct {
	Name  string        `json:"name"`
	Class string        `json:"class"`
	State string        `json:"state"` // in use, standby, on trial, testing, suspect, dialling, penalised, idle
	RTT   time.Duration `json:"rtt,omitempty"`
	Loss  float64       `json:"loss,omitempty"`  // of the last 32 echoes
	MTU   int           `json:"mtu,omitempty"`   // bytes of the largest echo that passes
	Until time.Time     `json:"until,omitzero"`  // end of the penalty
	Fault string        `json:"fault,omitempty"` // why it was left, or could not be used, since it was used last
}

// Ways returns how all ways do, in the order in which they would be tried now.
func (m *Machine) Ways(now time.Time) (all []WayStatus) {
	for _, id := range m.order(now) {
		w := &m.ways[id]
		s := WayStatus{Name: w.Name, Class: w.Class.String(), State: "idle", Fault: w.fault}
		if now.Before(w.until) {
			s.State, s.Until = "penalised", w.until
		}
		if w.running() {
			s.State = "dialling"
		}
		for _, p := range m.paths {
			if p.way == id && (p == m.used || s.MTU == 0) {
				s.State, s.RTT, s.Loss, s.MTU = p.state(p == m.used), p.meter.smooth, p.meter.loss(), p.size.now
			}
		}
		all = append(all, s)
	}
	return all
}

// String writes a way as a line for people.
func (s WayStatus) String() string {
	parts := []string{s.Name + ": " + s.State}
	if s.RTT > 0 {
		parts = append(parts, ms(s.RTT))
	}
	if s.Loss > 0 {
		parts = append(parts, fmt.Sprintf("%.0f %% lost", 100*s.Loss))
	}
	if s.MTU > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes", s.MTU))
	}
	if s.Fault != "" {
		parts = append(parts, s.Fault)
	}
	return strings.Join(parts, ", ")
}
