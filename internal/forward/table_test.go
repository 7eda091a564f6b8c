package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func parse(t *testing.T, from, to string) Spec {
	t.Helper()
	s, err := Parse(from, to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newTable(t *testing.T) *Table {
	t.Helper()
	table := NewTable(t.Context(), Config{})
	t.Cleanup(table.Close)
	return table
}

// A forward is called by where it listens, as asked for or as bound; what it carries ends with it, and its port is free.
func TestTable(t *testing.T) {
	table := newTable(t)
	to := serve(t, echo).String()
	s, err := table.Add(parse(t, "tcp://127.0.0.1:0?from=127.0.0.0/8", to), 0, false, false)
	if err != nil || s.Bound.Port == 0 {
		t.Fatalf("got %+v, %v", s, err)
	}
	if _, err := table.Add(parse(t, s.Bound.bare(), to), 0, false, false); !errors.Is(err, ErrTaken) {
		t.Errorf("twice: got %v", err)
	}
	c := dial(t, table.all[0].f)
	_, _ = c.Write([]byte("x"))
	_, _ = c.Read(make([]byte, 1))
	if all := table.List(); len(all) != 1 || all[0].Live != 1 || all[0].Bound.String() != s.Bound.String() {
		t.Errorf("got %+v", all)
	}
	if _, err := table.Remove("tcp://127.0.0.1:1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if _, err := table.Remove(s.Bound.bare()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("what it carried goes on")
	}
	if again, err := table.Add(parse(t, "tcp://127.0.0.1:0", to), s.Bound.Port, false, false); err != nil || again.Bound.Port != s.Bound.Port {
		t.Errorf("got %+v, %v, want the port that it had", again, err)
	}
}

// What can not be opened is told, and kept only if that was asked for; then it is opened once it can be.
func TestRetry(t *testing.T) {
	table := newTable(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spec := parse(t, "tcp://"+l.Addr().String(), "10.0.3.4:80")
	if _, err := table.Add(spec, 0, false, false); err == nil || len(table.List()) != 0 {
		t.Errorf("got %v and %+v", err, table.List())
	}
	if _, err := table.Add(spec, 0, true, true); err == nil {
		t.Error("the port is taken")
	}
	if all := table.List(); len(all) != 1 || all[0].Err == nil || !strings.Contains(all[0].Err.Error(), "in use") {
		t.Fatalf("got %+v", all)
	}
	_ = l.Close()
	table.Retry()
	if all := table.List(); all[0].Err != nil || all[0].Bound.Port == 0 {
		t.Errorf("got %+v", all)
	}
}

// There is a bound, and nothing after the end.
func TestTableBound(t *testing.T) {
	table := newTable(t)
	spec := parse(t, "udp://127.0.0.1:0", "10.0.3.4:80")
	for range MaxForwards {
		if _, err := table.Add(spec, 0, false, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := table.Add(spec, 0, false, false); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	table.Close()
	if _, err := table.Add(spec, 0, false, false); err == nil {
		t.Error("after the end there is a forward")
	}
}

// On another address forwards keep their ports and their counts, and what could not be opened is tried again; each is told.
func TestListenAt(t *testing.T) {
	table := newTable(t)
	to := serve(t, echo).String()
	s, err := table.Add(parse(t, "tcp://127.0.0.1:0", to), 0, true, true)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := table.Add(parse(t, "tcp://"+l.Addr().String(), to), 0, true, true); err == nil {
		t.Fatal("the port is taken")
	}
	once := func() {
		c := dial(t, table.all[0].f)
		_, _ = c.Write([]byte("x"))
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	once()
	told := map[string]string{}
	tell := func(s Status) { told[s.Bound.bare()] = fmt.Sprint(s.Err) }
	table.ListenAt(netip.MustParseAddr("127.0.0.1"), tell)
	if len(told) != 1 || !strings.Contains(told["tcp://"+l.Addr().String()], "in use") {
		t.Errorf("at the same address: told %v", told)
	}
	clear(told)
	table.ListenAt(netip.MustParseAddr("127.0.0.2"), tell)
	other := fmt.Sprintf("tcp://127.0.0.2:%d", s.Bound.Port)
	if len(told) != 2 || told[other] != "<nil>" {
		t.Errorf("at another address: told %v, want %s", told, other)
	}
	once()
	if all := table.List(); all[0].Total != 2 || all[0].Bound.bare() != other {
		t.Errorf("got %+v", all[0])
	}
	if _, err := table.Remove(other); err != nil {
		t.Fatal(err)
	}
	if all := table.Totals(); all["tcp"].Total != 2 {
		t.Errorf("what was removed is not in the totals: %+v", all)
	}
}
