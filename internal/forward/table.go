package forward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// MaxForwards is how many a Table has, unless its Config says otherwise.
const MaxForwards = 256

// Errors of a Table.
var (
	ErrUnknown = errors.New("there is no such forward ('forward list' names them)")
	ErrTaken   = errors.New("there is such a forward already")
	ErrFull    = errors.New("there are as many forwards as there may be: remove one")
)

// A Table has forwards by where they listen. Its methods may be called from any goroutine, but one at a time those that change it.
type Table struct {
	c   Config
	ctx context.Context // of all forwards
	end context.CancelFunc

	mu   sync.Mutex // guards what follows
	all  []*entry
	gone map[string]Stats // of forwards that were removed, by scheme
	over bool
}

// An entry is a forward that was asked for. It stays when it can not be opened: that may pass.
type entry struct {
	spec  Spec
	fixed bool     // by the configuration
	port  uint16   // that it has, or had last
	f     *Forward // nil: it could not be opened, or is being so
	past  Stats    // of those that it had before
	err   error
}

// A Status is what there is to know of a forward.
type Status struct {
	Spec
	Bound Entrance
	Fixed bool // the configuration has it
	Err   error
	Stats
}

// NewTable returns a Table that carries until ctx is done.
func NewTable(ctx context.Context, c Config) *Table {
	c.setDefaults()
	t := &Table{c: c, gone: map[string]Stats{}}
	t.ctx, t.end = context.WithCancel(ctx)
	return t
}

// Add opens a forward. If that fails there is none, unless keep is set: then it waits for Retry. prefer is the port that it had before; 0: none.
func (t *Table) Add(spec Spec, prefer uint16, fixed, keep bool) (Status, error) {
	e := &entry{spec: spec, fixed: fixed, port: prefer}
	if err := t.insert(e); err != nil {
		return Status{}, err
	}
	err := t.open(e)
	if err != nil && !keep {
		t.take(e)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return e.status(), err
}

// insert reserves the place of an entry.
func (t *Table) insert(e *entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
		return context.Canceled
	case len(t.all) >= t.c.Forwards:
		return ErrFull
	case e.spec.From.Port != 0 || e.spec.From.Path != "":
		if i := t.find(e.spec.From.bare()); i >= 0 {
			return fmt.Errorf("forward %s: %w, to %s: remove it first", e.spec.From.bare(), ErrTaken, t.all[i].spec.To)
		}
	}
	t.all = append(t.all, e)
	return nil
}

// open opens the forward of an entry.
func (t *Table) open(e *entry) error {
	var f *Forward
	err := t.c.Check(e.spec.To)
	if err == nil {
		f, err = Open(t.ctx, &t.c, e.spec, e.port)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.f, e.err = f, err
	if err == nil {
		e.port = f.Bound().Port
	}
	return err
}

// Retry opens those that could not be, and returns how many it has.
func (t *Table) Retry() (opened int) {
	t.mu.Lock()
	var failed []*entry
	for _, e := range t.all {
		if e.err != nil {
			failed = append(failed, e)
		}
	}
	t.mu.Unlock()
	for _, e := range failed {
		if t.open(e) == nil { // else List tells why
			opened++
		}
	}
	return opened
}

// Find returns a forward by where it listens.
func (t *Table) Find(from string) (Status, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(from)
	if i < 0 {
		return Status{}, fmt.Errorf("%s: %w", from, ErrUnknown)
	}
	return t.all[i].status(), nil
}

// Remove ends a forward, and all that it carries. It is named by where it listens, as it was asked for or as it was bound.
func (t *Table) Remove(from string) (Status, error) {
	t.mu.Lock()
	i := t.find(from)
	if i < 0 {
		t.mu.Unlock()
		return Status{}, fmt.Errorf("%s: %w", from, ErrUnknown)
	}
	e := t.all[i]
	s := e.status()
	t.mu.Unlock()
	t.take(e)
	return s, nil
}

// take removes an entry and ends its forward.
func (t *Table) take(e *entry) {
	t.mu.Lock()
	t.all = slices.DeleteFunc(t.all, func(other *entry) bool { return other == e })
	f := e.f
	t.mu.Unlock()
	if f != nil {
		f.Close()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone[e.spec.From.Scheme] = t.gone[e.spec.From.Scheme].plus(e.stats())
}

// ListenAt moves all forwards to another address of this host, on the ports that they have, and tries those again that could not be opened. It calls tell
// with each that it has opened, or could not. What they carry from an earlier address ends.
func (t *Table) ListenAt(host netip.Addr, tell func(Status)) {
	t.mu.Lock()
	all := slices.Clone(t.all)
	t.mu.Unlock()
	for _, e := range all {
		if e.f != nil && e.spec.From.Host == host { // which change by calls of this goroutine only
			continue
		}
		t.close(e, host)
		_ = t.open(e) // which the status says
		t.mu.Lock()
		s := e.status()
		t.mu.Unlock()
		tell(s)
	}
}

// close ends the forward of an entry, which is to listen at another address next.
func (t *Table) close(e *entry, next netip.Addr) {
	if e.f != nil {
		e.f.Close()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.past = e.stats()
	e.f = nil
	e.spec.From.Host = next
}

// Totals are the counts of all forwards by scheme, also of those that were removed.
func (t *Table) Totals() map[string]Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := maps.Clone(t.gone)
	for _, e := range t.all {
		all[e.spec.From.Scheme] = all[e.spec.From.Scheme].plus(e.stats())
	}
	return all
}

// find returns the index of a forward; -1: there is none. The caller holds mu.
func (t *Table) find(from string) int {
	if e, err := ParseEntrance(from); err == nil {
		from = e.bare()
	}
	if i := slices.IndexFunc(t.all, func(e *entry) bool { return e.bound().bare() == from }); i >= 0 {
		return i
	}
	return slices.IndexFunc(t.all, func(e *entry) bool { return e.spec.From.bare() == from })
}

// List returns all forwards, in the order in which they came.
func (t *Table) List() []Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Status, len(t.all))
	for i, e := range t.all {
		all[i] = e.status()
	}
	return all
}

// Close ends all forwards and returns when they have ended.
func (t *Table) Close() {
	t.end()
	t.mu.Lock()
	t.over = true
	all := slices.Clone(t.all)
	t.mu.Unlock()
	for _, e := range all {
		t.take(e)
	}
}

// bound is where an entry listens, or would. The caller holds the table's mu, as for status.
func (e *entry) bound() Entrance {
	switch {
	case e.f != nil:
		return e.f.Bound()
	case e.port != 0:
		return e.spec.From.at(e.port)
	}
	return e.spec.From
}

func (e *entry) status() Status {
	return Status{Spec: e.spec, Bound: e.bound(), Fixed: e.fixed, Err: e.err, Stats: e.stats()}
}

func (e *entry) stats() Stats {
	if e.f == nil {
		return e.past
	}
	return e.past.plus(e.f.Stats())
}
