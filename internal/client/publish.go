package client

import "ferry/internal/proto"

// tellServices tells the gateway by the connection in use what this device serves, unless it was told by that.
func (r *roamer) tellServices() {
	x := r.used
	if x == nil || r.services.Serial == 0 || r.servicesOn == x {
		return
	}
	r.servicesOn = x
	r.untold.Store(false)
	if !x.lease.Features.Has(proto.FeaturePublish) {
		r.log.Warn("the gateway publishes no services of clients: its setting 'publish' names those whose it does")
		return
	}
	if dropped, _ := x.queue.Send(proto.AppendPublish(nil, r.services)); dropped > 0 { // the queue is full: the announcer asks again
		r.servicesOn = nil
		r.untold.Store(true)
	}
}
