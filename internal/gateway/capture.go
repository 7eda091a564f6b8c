package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"ferry/internal/api"
	"ferry/internal/capture"
	"ferry/internal/capture/filter"
)

// capture answers with the packets that pass, as a file, for as long as it is read.
func (g *Gateway) capture(w http.ResponseWriter, r *http.Request) {
	o, err := g.captureOptions(r)
	if err != nil {
		api.Fail(w, status(err), err)
		return
	}
	if r.Method == http.MethodHead { // which GET is, too, in a mux: is there such a thing?
		return
	}
	c, err := g.captures.Start(o)
	if err != nil {
		api.Fail(w, status(err), err)
		return
	}
	g.log.Info("capture", "number", c.Number(), "peer", r.FormValue("peer"), "filter", r.FormValue("filter"))
	api.Send(w, c.Number(), func(write func([]byte) error) (uint64, uint64, error) {
		err := c.Run(r.Context(), write)
		s := c.Stats()
		log := g.log
		if err != nil {
			log = log.With("err", err)
		}
		log.Info("capture ended", "number", c.Number(), "packets", s.Packets, "dropped", s.Dropped)
		return s.Packets, s.Dropped, err
	})
}

func (g *Gateway) captureOptions(r *http.Request) (o capture.Options, err error) {
	asked, err := api.ParseCapture(r.URL.Query())
	if err != nil {
		return o, err
	}
	o = capture.Options{
		Snaplen: int(min(asked.Snaplen, 1<<16)), Packets: asked.Packets, Bytes: asked.Bytes, Time: time.Duration(asked.Seconds * float64(time.Second)),
	}
	if o.Filter, err = filter.Parse(asked.Filter); err != nil {
		return o, err
	}
	if asked.Peer != "" {
		o.Peers, err = g.addressesOf(asked.Peer)
	}
	return o, err
}

// endCapture ends the capture with a number.
func (g *Gateway) endCapture(text string) error {
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return fmt.Errorf("%q: %w", text, capture.ErrUnknown)
	}
	return g.captures.End(number)
}

// addressesOf returns the addresses of a client that an operator has named: by one of them, by the name of a device, or by the number of a session.
func (g *Gateway) addressesOf(client string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(client); err == nil {
		if !g.c().Pool.Contains(a) {
			return nil, fmt.Errorf("%s is no client: their addresses are of the pool %s", a, g.c().Pool)
		}
		return []netip.Addr{a}, nil
	}
	if g.devices != nil {
		if p, ok := g.devices.Find(client); ok {
			return p.Addrs, nil
		}
	}
	if number, err := strconv.ParseUint(client, 10, 64); err == nil {
		for _, s := range g.sessions() {
			if s.ID == number && s.Address.IsValid() {
				return []netip.Addr{s.Address}, nil
			}
		}
		return nil, fmt.Errorf("%d: %w with an address", number, errNoSession)
	}
	a, err := g.addressOf(client)
	return []netip.Addr{a}, err
}
