package settings

import "reflect"

// A kind says when a setting that was changed in the file takes effect on a running gateway.
type kind uint8

const (
	atOnce  kind = iota // those about a connection: for who comes from now on
	restart             // what clients, the kernel or the disk hold already
	// What is judged by the key and the pool takes effect at once, unless one of those was changed, too.
	judged
)

// A setting is a key of the file, and the field that it sets.
type setting struct {
	key  string
	kind kind
	at   func(*Config) any // a pointer to the field
}

// all has every setting. A test sees to that.
var all = []setting{
	{"listen", restart, func(c *Config) any { return &c.Listen }},
	{"vtunnel_listen", restart, func(c *Config) any { return &c.VTunnelListen }},
	{"l2_listen", restart, func(c *Config) any { return &c.L2Listen }},
	{"profile", restart, func(c *Config) any { return &c.Profile }},
	{"gvproxy_api", restart, func(c *Config) any { return &c.GvproxyAPI }},
	{"gvproxy_listen", restart, func(c *Config) any { return &c.GvproxyListen }},
	{"gvproxy_inside", restart, func(c *Config) any { return &c.GvproxyInside }},
	{"gvproxy_keys", restart, func(c *Config) any { return &c.GvproxyKeys }},
	{"notification", restart, func(c *Config) any { return &c.Notification }},
	{"key", restart, func(c *Config) any { return &c.Key }},
	{"pool", restart, func(c *Config) any { return &c.Pool }},
	{"plain_pool", restart, func(c *Config) any { return &c.PlainPool }},
	{"exit", restart, func(c *Config) any { return &c.Exit }},
	{"alias", restart, func(c *Config) any { return &c.Alias }},
	{"dial_timeout", restart, func(c *Config) any { return &c.DialTimeout }},
	{"dials", restart, func(c *Config) any { return &c.Dials }},
	{"client_dials", restart, func(c *Config) any { return &c.ClientDials }},
	{"connections", restart, func(c *Config) any { return &c.Conns }},
	{"flows", restart, func(c *Config) any { return &c.Flows }},
	{"connection_memory", restart, func(c *Config) any { return &c.ConnMemory }},
	{"idle", restart, func(c *Config) any { return &c.Idle }},
	{"tun", restart, func(c *Config) any { return &c.TUN }},
	{"state", restart, func(c *Config) any { return &c.StateDir }},
	{"metrics", restart, func(c *Config) any { return &c.Metrics }},
	{"nameserver", restart, func(c *Config) any { return &c.Nameserver }},
	{"dns_domain", restart, func(c *Config) any { return &c.DNSDomain }},
	{"publish_host", restart, func(c *Config) any { return &c.PublishHost }},
	{"publish_ports", restart, func(c *Config) any { return &c.PublishPorts }},
	{"publish_maps", restart, func(c *Config) any { return &c.PublishMaps }},
	{"publish_expand", restart, func(c *Config) any { return &c.PublishExpand }},
	{"publish_dir", restart, func(c *Config) any { return &c.PublishDir }},
	{"log_format", restart, func(c *Config) any { return &c.LogFormat }},

	{"public", atOnce, func(c *Config) any { return &c.Public }},
	{"mix_plain", atOnce, func(c *Config) any { return &c.Mix }},
	{"isolate", atOnce, func(c *Config) any { return &c.Isolate }},
	{"allow", atOnce, func(c *Config) any { return &c.Allow }},
	{"deny", atOnce, func(c *Config) any { return &c.Deny }},
	{"mtu", atOnce, func(c *Config) any { return &c.MTU }},
	{"nat", atOnce, func(c *Config) any { return &c.NAT }},
	{"legacy_self_assign", atOnce, func(c *Config) any { return &c.LegacySelfAssign }},
	{"resume_timeout", atOnce, func(c *Config) any { return &c.ResumeTimeout }},
	{"session_lifetime", atOnce, func(c *Config) any { return &c.SessionLifetime }},
	{"idle_timeout", atOnce, func(c *Config) any { return &c.IdleTimeout }},
	{"join_timeout", atOnce, func(c *Config) any { return &c.JoinTimeout }},
	{"frame_timeout", atOnce, func(c *Config) any { return &c.FrameTimeout }},
	{"write_timeout", atOnce, func(c *Config) any { return &c.WriteTimeout }},
	{"queue_bytes", atOnce, func(c *Config) any { return &c.QueueBytes }},
	{"queue_total", atOnce, func(c *Config) any { return &c.QueueTotal }},
	{"publish", atOnce, func(c *Config) any { return &c.Publish }},
	{"publish_limit", atOnce, func(c *Config) any { return &c.PublishLimit }},
	{"forwards", atOnce, func(c *Config) any { return &c.Forwards }},
	{"log_level", atOnce, func(c *Config) any { return &c.LogLevel }},
	{"push_dns", atOnce, func(c *Config) any { return &c.PushDNS }},
	{"push_domains", atOnce, func(c *Config) any { return &c.PushDomains }},
	{"dns_upstream", atOnce, func(c *Config) any { return &c.DNSUpstream }},
	{"dns_forward", atOnce, func(c *Config) any { return &c.DNSForward }},
	{"dns_zones", atOnce, func(c *Config) any { return &c.DNSZones }},

	// After 'vpnsrv key switch' devices have to go on hearing of the key that the next start will have.
	{"next key", judged, func(c *Config) any { return &c.NextKey }},
	{"push_route", judged, func(c *Config) any { return &c.PushRoutes }},
	{"reserved", judged, func(c *Config) any { return &c.Reserved }},
	{"sites", judged, func(c *Config) any { return &c.Sites }},
	{"max_sessions", judged, func(c *Config) any { return &c.MaxSessions }},
	{"max_plain", judged, func(c *Config) any { return &c.Limits.Plain }},
	{"max_unauthenticated", judged, func(c *Config) any { return &c.Limits.Unknown }},
	{"source_sessions", judged, func(c *Config) any { return &c.Limits.SourceSessions }},
	{"source_unauthenticated", judged, func(c *Config) any { return &c.Limits.SourceUnknown }},
	{"source_rate", judged, func(c *Config) any { return &c.Limits.SourceRate }},
	{"source_burst", judged, func(c *Config) any { return &c.Limits.SourceBurst }},
	{"accept_rate", judged, func(c *Config) any { return &c.Limits.Rate }},
	{"penalty", judged, func(c *Config) any { return &c.Limits.Penalty }},
	{"penalty_max", judged, func(c *Config) any { return &c.Limits.PenaltyMax }},
}

// Merge returns what a gateway that runs with now does when it is told wanted: both have their defaults.
// applied and waiting are the keys that differ, and of them those that wait for a restart.
func Merge(now, wanted Config) (next Config, applied, waiting []string) {
	next = now
	fresh := same(now.Key, wanted.Key) && now.Pool == wanted.Pool && now.PlainPool == wanted.PlainPool
	for _, s := range all {
		to, from := reflect.ValueOf(s.at(&next)).Elem(), reflect.ValueOf(s.at(&wanted)).Elem()
		switch {
		case same(to.Interface(), from.Interface()):
		case s.kind == restart, s.kind == judged && !fresh:
			waiting = append(waiting, s.key)
		default:
			to.Set(from)
			applied = append(applied, s.key)
		}
	}
	next.Limits.Sessions = next.MaxSessions
	return next, applied, waiting
}

// same tells whether two values are equal. An empty list is like none.
func same(a, b any) bool {
	v, w := reflect.ValueOf(a), reflect.ValueOf(b)
	if k := v.Kind(); (k == reflect.Slice || k == reflect.Map) && v.Len() == 0 && w.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a, b)
}
