package gvproxy

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/forward"
	"ferry/internal/l2port"
)

// dialTimeout is how long a client has to answer who comes by /tunnel.
const dialTimeout = 10 * time.Second

// tunnel answers OK and becomes a connection to a client: that it could not be made shows only in that it ends, as with gvproxy.
func (a *API) tunnel(w http.ResponseWriter, r *http.Request) {
	ip := r.URL.Query().Get("ip")
	if ip == "" {
		a.fail(w, http.StatusInternalServerError, "ip is mandatory")
		return
	}
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	if err != nil {
		a.fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	to, err := netip.ParseAddr(ip)
	if err == nil {
		err = a.c.Clients.Check(to)
	}
	if err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	select {
	case a.tunnels <- struct{}{}:
		defer func() { <-a.tunnels }()
	default:
		a.count.crowded.Add(1)
		http.Error(w, "there are too many tunnels already", http.StatusServiceUnavailable)
		return
	}
	s, near, first, err := take(w, r)
	if err != nil {
		a.fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer s.conns.Done()
	a.count.tunnels.Add(1)
	a.carry(s.ctx, near, first, netip.AddrPortFrom(to, uint16(port)))
}

// carry is the life of a tunnel.
func (a *API) carry(ctx context.Context, near net.Conn, first []byte, to netip.AddrPort) {
	_ = near.SetWriteDeadline(time.Now().Add(dialTimeout))
	if _, err := near.Write([]byte("OK")); err != nil {
		_ = near.Close()
		return
	}
	_ = near.SetWriteDeadline(time.Time{})
	dialling, cancel := context.WithTimeout(ctx, dialTimeout)
	far, err := a.c.Clients.Dial(dialling, to)
	cancel()
	if err != nil {
		a.c.Log.Debug("gvproxy: tunnel", "to", to, "err", err)
		carrier.Drain(near)
		_ = near.Close()
		return
	}
	forward.Relay(ctx, near, far, first, a.c.Idle)
}

// maxArrivals is how many machines wait to be taken.
const maxArrivals = 16

// Plugs are the machines that have come by /connect. They are accepted like those that come by sockets of their own.
type Plugs struct {
	at     net.Addr
	arrive chan *l2port.Arrival // sent to by handlers of /connect, closed by nobody; one that is full refuses
	done   chan struct{}        // closed by Close
	closed func()
}

// Accept waits for the next machine.
func (p *Plugs) Accept() (*l2port.Arrival, error) {
	select {
	case a := <-p.arrive:
		return a, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Addr returns where they come.
func (p *Plugs) Addr() net.Addr { return p.at }

// Close ends Accept, and the connections of those that were not accepted. It may be called more than once, also by who waits for the last of them.
func (p *Plugs) Close() error {
	p.closed()
	for {
		select {
		case a := <-p.arrive:
			_ = a.Close()
		default:
			return nil
		}
	}
}

// connect makes a machine of a connection. Nothing is answered: frames follow.
func (a *API) connect(w http.ResponseWriter, r *http.Request, p *Plugs) {
	s, conn, first, err := take(w, r)
	if err != nil {
		a.fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer s.conns.Done()
	at := p.at.String()
	if from := conn.RemoteAddr().String(); from != "" && from != "@" {
		at = from
	}
	select {
	case p.arrive <- l2port.Plugged(carrier.Unread(conn, first), l2port.Lengths16, p.at.Network(), at):
		a.count.machines.Add(1)
	default:
		a.count.unplugged.Add(1)
		carrier.Reset(conn)
	}
}
