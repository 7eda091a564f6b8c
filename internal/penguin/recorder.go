package penguin

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/capture/pcap"
	"ferry/internal/penguin/wire"
	"ferry/internal/relay"
)

// maxEvents is how many events wait for the disk, each with a block at most: 4 MiB.
const maxEvents = 64

// A recorder writes down what passes, in the forms of the original:
//
//	DIR/vpn_data_ADDR      all chunks behind each other, "<<<" before what the guest has said and ">>>" before what it was told
//	DIR/vpn_response_ADDR  what the guest has said
//	DIR/vpn_ADDR           "to_guest,from_guest\n" for each connection, bytes
//	FILE                   packets (pcap.go)
//
// ADDR is the service's address, with _ for each colon. The first three are of TCP, and appended to.
//
//	record.toGuest, fromGuest, ... --events--> run --> files
//
// One goroutine writes, so nothing is locked, and packets are in the order of their times. Who is recorded waits when maxEvents do. What can not be written is said
// once, and left out from then on. A nil recorder records nothing.
type recorder struct {
	dir    string
	log    *slog.Logger
	events chan event // sent to by records, closed by close
	done   chan struct{}

	// Of the goroutine:
	capture *os.File // nil: none
	logs    map[netip.AddrPort]*logFiles
	buf     []byte
}

// What an event is.
type happening uint8

const (
	opened happening = iota
	toGuest
	fromGuest
	ended
)

// An event is what has happened to a connection or flow.
type event struct {
	r     *record
	what  happening
	at    time.Time
	block *[relay.Size]byte // nil: no bytes
	n     int
}

// openRecorder makes the files. Without a directory and a path it returns nil.
func openRecorder(dir, capture string, log *slog.Logger) (*recorder, error) {
	if dir == "" && capture == "" {
		return nil, nil
	}
	w := &recorder{dir: dir, log: log, events: make(chan event, maxEvents), done: make(chan struct{}), logs: map[netip.AddrPort]*logFiles{}}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
	}
	if capture != "" {
		var err error
		if w.capture, err = os.Create(capture); err != nil {
			return nil, err
		}
		if _, err := w.capture.Write(pcap.Ethernet.AppendHeader(nil, pcap.MaxSnaplen)); err != nil {
			return nil, errors.Join(err, w.capture.Close())
		}
	}
	go w.run()
	return w, nil
}

// close writes all that waits, and closes the files. All records have ended before.
func (w *recorder) close() {
	if w == nil {
		return
	}
	close(w.events)
	<-w.done
}

// begin returns the record of a connection or flow from a client; nil: there is nothing to record.
func (w *recorder) begin(p wire.Publication, client netip.AddrPort) *record {
	if w == nil {
		return nil
	}
	src := p.Src.Addr()
	if !src.IsValid() {
		src = wire.Unspecified(p.Guest.Addr())
	}
	return &record{w: w, p: p, client: netip.AddrPortFrom(src, client.Port())}
}

// A record is what is written down of one connection or flow. Its methods may be called from any goroutine. A nil record does nothing.
type record struct {
	w      *recorder
	p      wire.Publication
	client netip.AddrPort // as the guest sees it, but for the port
	over   sync.Once
	gone   atomic.Bool

	// Of the recorder's goroutine:
	isOver     bool
	up, down   uint64 // bytes
	seq, reply uint32 // of the next byte in packets
}

func (r *record) open() { r.send(opened, nil) }

func (r *record) toGuest(b []byte) { r.send(toGuest, b) }

func (r *record) fromGuest(b []byte) { r.send(fromGuest, b) }

// end is called when nothing can be sent any more, and may be called more than once. What is on its way here then was told nobody, and is left out.
func (r *record) end() {
	if r != nil {
		r.over.Do(func() { r.send(ended, nil) })
	}
}

func (r *record) send(what happening, b []byte) {
	if r == nil || r.gone.Load() {
		return
	}
	if what == ended {
		r.gone.Store(true)
	}
	e := event{r: r, what: what, at: time.Now()}
	for first := true; first || len(b) > 0; first = false {
		if len(b) > 0 {
			e.block = relay.Borrow()
			e.n = copy(e.block[:], b)
			b = b[e.n:]
		}
		r.w.events <- e
	}
}

// run is the goroutine that writes.
func (w *recorder) run() {
	defer close(w.done)
	for e := range w.events {
		var b []byte
		if e.block != nil {
			b = e.block[:e.n]
		}
		if !e.r.isOver && w.dir != "" && e.r.p.Transport == wire.TCP {
			w.note(e, b)
		}
		if !e.r.isOver && w.capture != nil {
			w.packets(e, b)
		}
		e.r.isOver = e.r.isOver || e.what == ended
		if e.block != nil {
			relay.GiveBack(e.block)
		}
	}
	for _, l := range w.logs {
		l.close()
	}
	if w.capture != nil {
		w.failed(w.capture.Close())
	}
}

func (w *recorder) failed(err error) bool {
	if err != nil {
		w.log.Error("record: what passes is written down no more there", "err", err)
	}
	return err != nil
}

// logFiles are those of a service. nil: can not be written.
type logFiles struct{ data, response, summary *os.File }

func (l *logFiles) close() {
	for _, f := range []*os.File{l.data, l.response, l.summary} {
		if f != nil {
			_ = f.Close() // all was written, and nothing is kept in this process
		}
	}
}

// filesOf opens the files of a service, once.
func (w *recorder) filesOf(service netip.AddrPort) *logFiles {
	if l, ok := w.logs[service]; ok {
		return l
	}
	l := new(logFiles)
	name := strings.ReplaceAll(service.String(), ":", "_")
	for prefix, f := range map[string]**os.File{"vpn_data_": &l.data, "vpn_response_": &l.response, "vpn_": &l.summary} {
		var err error
		if *f, err = os.OpenFile(filepath.Join(w.dir, prefix+name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666); w.failed(err) {
			*f = nil
		}
	}
	w.logs[service] = l
	return l
}

// put writes to a file that may be nil, and closes it where that fails.
func (w *recorder) put(f **os.File, b []byte) {
	if *f == nil {
		return
	}
	if _, err := (*f).Write(b); w.failed(err) {
		_ = (*f).Close()
		*f = nil
	}
}

// note writes the logs.
func (w *recorder) note(e event, b []byte) {
	l := w.filesOf(e.r.p.Guest)
	switch e.what {
	case opened:
	case toGuest:
		e.r.up += uint64(len(b))
		w.buf = append(append(w.buf[:0], ">>>"...), b...)
		w.put(&l.data, w.buf)
	case fromGuest:
		e.r.down += uint64(len(b))
		w.buf = append(append(w.buf[:0], "<<<"...), b...)
		w.put(&l.data, w.buf)
		w.put(&l.response, b)
	case ended:
		w.put(&l.summary, fmt.Appendf(nil, "%d,%d\n", e.r.up, e.r.down))
	}
}
