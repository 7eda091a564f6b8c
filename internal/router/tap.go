package router

import "sync/atomic"

// A Tap sees the packets that pass the router.
type Tap interface {
	// Pass is called with each run that is about to be sent from one port to another: data frames, or bare packets. It never
	// waits, changes nothing, and keeps nothing of the run. Any number of goroutines call it at once, also for a moment after it was taken out.
	Pass(from, to *Port, run []byte)
}

// Taps is the place of a Tap. The zero value has none, and costs a run one atomic load.
type Taps struct{ tap atomic.Pointer[Tap] }

// Set puts a Tap in the place of the one before; nil takes it out.
func (t *Taps) Set(tap Tap) {
	if tap == nil {
		t.tap.Store(nil)
		return
	}
	t.tap.Store(&tap)
}

// Tapped shows what f sends to a Tap, and returns f. It is called before anything is forwarded.
func (f *Forwarder) Tapped(by *Taps) *Forwarder {
	f.taps = by
	return f
}

// show shows a run to the Tap, if there is one.
func (f *Forwarder) show(to *Port, run []byte) {
	if f.taps == nil {
		return
	}
	if tap := f.taps.tap.Load(); tap != nil {
		(*tap).Pass(f.from, to, run)
	}
}
