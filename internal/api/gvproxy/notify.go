package gvproxy

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"ferry/internal/api/gvproxy/endpoint"
)

// What there is to be told.
const (
	Ready       = "ready"                  // clients can come
	Established = "connection_established" // one has an address
	Closed      = "connection_closed"      // and is gone
)

// A Notification is one line of JSON. The first two keys are gvproxy's.
type Notification struct {
	Type    string     `json:"notification_type"`
	MAC     string     `json:"mac_address,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
	Name    string     `json:"name,omitempty"`
}

// A Notifier tells a program of clients that come and go: it dials the program's unix socket, once for each notification.
type Notifier struct {
	path  string
	log   *slog.Logger
	queue chan Notification // sent to by whoever notifies; when it is full that is dropped, and counted

	sent, failed, dropped atomic.Uint64
}

const (
	maxNotifications = 100
	// notifyTimeout is how long the program has to take one.
	notifyTimeout = 5 * time.Second
)

// NewNotifier returns a Notifier for the socket of a URL; nil for none.
func NewNotifier(url string, log *slog.Logger) (*Notifier, error) {
	if url == "" {
		return nil, nil
	}
	path, err := endpoint.ParseNotification(url)
	return &Notifier{path: path, log: log, queue: make(chan Notification, maxNotifications)}, err
}

// Send has it told. It never waits. A nil Notifier tells nobody.
func (n *Notifier) Send(one Notification) {
	if n == nil {
		return
	}
	select {
	case n.queue <- one:
	default:
		n.dropped.Add(1)
	}
}

// Counts returns what became of notifications, by its names. Of a nil Notifier it has none.
func (n *Notifier) Counts() map[string]uint64 {
	if n == nil {
		return nil
	}
	return map[string]uint64{"notified": n.sent.Load(), "notifications_failed": n.failed.Load(), "notifications_dropped": n.dropped.Load()}
}

// Run tells until ctx is done.
func (n *Notifier) Run(ctx context.Context) error {
	if n == nil {
		return nil
	}
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case one := <-n.queue:
			err := n.tell(ctx, one)
			if err != nil {
				n.failed.Add(1)
				if !failing { // one line until it works again
					n.log.Warn("notification", "socket", n.path, "err", err)
				}
			} else {
				n.sent.Add(1)
			}
			failing = err != nil
		}
	}
}

func (n *Notifier) tell(ctx context.Context, one Notification) error {
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", n.path)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(notifyTimeout))
	return json.NewEncoder(conn).Encode(one)
}
