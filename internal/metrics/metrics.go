// Package metrics shows how a gateway does to Prometheus. Nothing below it knows of it: it reads what package
// api shows to the operator. Labels are reasons and states of the program's own, never what a stranger said.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ferry/internal/api"
)

// Names of the metrics.
const (
	Info            = "ferry_info"
	Sessions        = "ferry_sessions"
	Unauthenticated = "ferry_unauthenticated_connections"
	Peers           = "ferry_peers"
	Packets         = "ferry_packets_total"
	Bytes           = "ferry_bytes_total"
	Drops           = "ferry_dropped_packets_total"
	Ended           = "ferry_connections_ended_total"
	Questions       = "ferry_name_questions_total"
	Tunnels         = "ferry_vtunnel_connections_total"
	ForwardConns    = "ferry_forward_connections"
	ForwardTotal    = "ferry_forward_connections_total"
	ForwardBytes    = "ferry_forward_bytes_total"
	ForwardRefused  = "ferry_forward_refused_total"
	Gvproxy         = "ferry_gvproxy_requests_total"
	Notifications   = "ferry_notifications_total"
	Published       = "ferry_published_services"
	Unpublished     = "ferry_refused_services_total"
	Queued          = "ferry_queued_bytes"
	Leases          = "ferry_leases"
	Storage         = "ferry_lease_storage_ok"
)

var (
	info            = describe(Info, "The running version.", "version")
	sessions        = describe(Sessions, "Connections of clients.")
	unauthenticated = describe(Unauthenticated, "Connections that have not proven anything yet.")
	peers           = describe(Peers, "Devices with a key that may connect.")
	packets         = describe(Packets, "Packets of clients that were forwarded; a super-packet is one.")
	bytes           = describe(Bytes, "Bytes of these packets.")
	drops           = describe(Drops, "Packets that were dropped, by reason.", "reason")
	ended           = describe(Ended, "Connections that ended or were refused, by cause.", "cause")
	questions       = describe(Questions, "Questions of clients for names, by what became of them.", "outcome")
	tunnels         = describe(Tunnels, "Connections of clients of vtunnel, by what became of them.", "outcome")
	forwardConns    = describe(ForwardConns, "Connections of published ports, and flows of udp.", "scheme")
	forwardTotal    = describe(ForwardTotal, "Those that there were.", "scheme")
	forwardBytes    = describe(ForwardBytes, "Bytes that they carried, those of connections when they have ended.", "scheme", "direction")
	forwardRefused  = describe(ForwardRefused, "Connections, flows and datagrams to published ports that came to nothing, by reason.", "scheme", "reason")
	gvproxy         = describe(Gvproxy, "Tunnels and machines that came by gvproxy's API, and requests that it has refused, by what became of them.", "outcome")
	notifications   = describe(Notifications, "Notifications of gvproxy's kind, by what became of them.", "outcome")
	published       = describe(Published, "Services of clients that are published as these announce them.")
	unpublished     = describe(Unpublished, "Services that clients have announced and that are not published, by reason.", "reason")
	queued          = describe(Queued, "Bytes that wait for clients.")
	leases          = describe(Leases, "Addresses for clients without a key, by state.", "state")
	storage         = describe(Storage, "1 if leases can be stored.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// collector reads a Status at each scrape.
type collector struct{ status func() api.Status }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, to) }

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(info, 1, s.Version)
	gauge(sessions, float64(s.Sessions))
	gauge(unauthenticated, float64(s.Unauthenticated))
	gauge(peers, float64(s.Peers))
	counter(packets, s.Packets)
	counter(bytes, s.Bytes)
	for reason, n := range s.Drops {
		counter(drops, n, reason)
	}
	for cause, n := range s.Closed {
		counter(ended, n, cause)
	}
	for outcome, n := range s.Names {
		counter(questions, n, outcome)
	}
	for outcome, n := range s.Tunnels {
		counter(tunnels, n, outcome)
	}
	for outcome, n := range s.Gvproxy {
		counter(gvproxy, n, outcome)
	}
	for outcome, n := range s.Notifications {
		counter(notifications, n, outcome)
	}
	for scheme, f := range s.Forwards {
		gauge(forwardConns, float64(f.Connections), scheme)
		counter(forwardTotal, f.Total, scheme)
		counter(forwardBytes, f.Received, scheme, "received")
		counter(forwardBytes, f.Sent, scheme, "sent")
		for reason, n := range f.Refused {
			counter(forwardRefused, n, scheme, reason)
		}
	}
	gauge(published, float64(s.Published))
	for reason, n := range s.Unpublished {
		counter(unpublished, n, reason)
	}
	gauge(queued, float64(s.Queued))
	gauge(leases, float64(s.Leases.Free), "free")
	gauge(leases, float64(s.Leases.Live), "live")
	gauge(leases, float64(s.Leases.Held), "held")
	ok := 1.0
	if s.Leases.Err != "" {
		ok = 0
	}
	gauge(storage, ok)
}

// Handler serves /metrics and /healthz. The gateway is healthy as long as it answers; that its disk fails
// is said in the body and in a metric, for those who are connected go on.
func Handler(status func() api.Status) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{status}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		text := "ok\n"
		if e := status().Leases.Err; e != "" {
			text = "ok, but leases can not be stored: " + e + "\n"
		}
		_, _ = w.Write([]byte(text))
	})
	return mux
}
