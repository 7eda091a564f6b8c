// Package settings is what a gateway can be told: apart from package gateway, so that who reads a
// configuration does not carry all of a gateway.
package settings

import (
	"cmp"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"ferry/internal/admission"
	"ferry/internal/forward"
	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// Defaults that an operator meets in the documentation.
const (
	DefaultPort        = 2002
	DefaultTUN         = "vpn0"
	DefaultDials       = 2048
	DefaultClientDials = 256
	DefaultConns       = 32768
	DefaultFlows       = 8192
	DefaultConnMemory  = 256 << 20
	DefaultDomain      = "ferry.internal" // internal is nobody's on the Internet, and never will be (ICANN, 2024); a single label clients take from no gateway
	DefaultMTU         = 1500
	DefaultStateDir    = "/var/lib/ferry"
	DefaultIdle        = 60 * time.Second
	DefaultDeadline    = 10 * time.Second
	DefaultResume      = 5 * time.Minute
	DefaultLifetime    = 24 * time.Hour
	MaxLifetime        = 365 * 24 * time.Hour
	DefaultMaxSessions = 10_000
	DefaultQueue       = 256 << 10
	DefaultQueueTotal  = 512 << 20
)

// Names of keys besides the gateway's own are that with one of these behind it.
const (
	NextKeySuffix = ".next"
	OldKeySuffix  = ".old"
)

// DefaultLimits are those of a gateway with a key, on the Internet. One without a key, as in 2013, has those
// in all alone: whoever runs it knows who comes.
var DefaultLimits = admission.Limits{
	Unknown: 256, SourceSessions: 32, SourceUnknown: 16, SourceRate: 10, SourceBurst: 30, Rate: 500,
	Penalty: 5 * time.Second, PenaltyMax: 10 * time.Minute,
}

// Where services of clients are published, by default: for programs of this host alone.
var (
	DefaultPublishHost  = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	DefaultPublishPorts = publish.Range{First: 1024, Last: 65535}
)

// noLimit is a number of connections, or of them a second, that nobody reaches.
const noLimit = 1_000_000

// DefaultPool is the prefix of the 2013 protocol (protocol-2013: the netmask is hard-coded there).
var DefaultPool = netip.MustParsePrefix("10.0.0.0/16")

// A Config is everything a gateway can be told. The zero value of a field means its default.
// It is not modified after Run was called.
type Config struct {
	// Listen has the URLs to serve: tcp://[host]:port, vsock://[cid]:port, unix:///path.
	// None means TCP port 2002 and, where /dev/vsock exists, vsock port 2002.
	Listen []string

	// VTunnelListen has the URLs on which vpnsrv serves clients of vtunnel, beside the gateway; package vtunnel reads them.
	VTunnelListen []string

	// L2Listen has the URLs of sockets into which machines without a client are plugged: see package l2port.
	L2Listen []string

	// Profile is ProfileGvproxy, or empty. With one, only what is named is listened on.
	Profile string
	// GvproxyAPI has the URLs on which gvproxy's API is served, and GvproxyListen those on which machines come in by its /connect, too; GvproxyInside lets clients
	// expose ports of their own by it. GvproxyKeys are the files with keys for SSH that it may use. Notification is the URL of a socket that is told of clients.
	GvproxyAPI, GvproxyListen []string
	GvproxyInside             bool
	GvproxyKeys               []string
	Notification              string
	// Key is the gateway's identity. Without one it speaks the 2013 protocol with whoever comes; with
	// one it speaks TLS with the devices that it knows, and the 2013 protocol where a URL allows it.
	Key identity.Key
	// NextKey is the pin of the key that the gateway will have next, which it tells devices; zero: none.
	NextKey identity.Pin

	Pool netip.Prefix // addresses of the clients; the first one is the gateway's
	// PlainPool is the part of Pool for clients without a key: all of it where the gateway has none,
	// else its upper half unless it is set.
	PlainPool netip.Prefix
	// Public has the URLs by which devices find this gateway, for invitations; none: the addresses of
	// the host.
	Public []string
	// Metrics is host:port on which everybody may read metrics and health; empty: nobody but the operator.
	Metrics string
	// Mix lets packets pass between clients with a key and those without.
	Mix bool

	Reserved map[string]netip.Addr // name of a client without a key -> the address that only it gets
	// Sites are networks behind a client: prefix -> the pool address of the client that routes it.
	Sites map[netip.Prefix]netip.Addr
	// Alias are destinations that stand for others, with ExitUser: 192.0.2.1 for 127.0.0.1. No client gets one that is in the pool.
	Alias map[netip.Addr]netip.Addr
	// With ExitUser: how long a destination has to answer, how many may be dialled at once, in all and for one client, how many connections of
	// TCP and flows of UDP and ICMP there may be, and after how long without a byte they end, by protocol and port (0: all others).
	DialTimeout        time.Duration
	Dials, ClientDials int
	Conns, Flows       int
	ConnMemory         int // that connections may hold together of what their ends have not taken, bytes; with ExitUser, too
	Idle               map[Service]time.Duration
	// Forwards are ports of clients that the gateway publishes.
	Forwards []forward.Spec
	// Publish says whose services the gateway publishes as they announce them: on PublishHost (unspecified: all addresses), each on one of PublishPorts or that of
	// PublishMaps, and up to PublishLimit of one client. PublishExpand: Penguin's way with services on all addresses. PublishDir is where files say what there is; empty: nowhere.
	Publish       publish.Who
	PublishHost   netip.Addr
	PublishPorts  publish.Range
	PublishMaps   []publish.Map
	PublishLimit  int
	PublishExpand bool
	PublishDir    string
	// PushRoutes are sent to the clients, which route them into the tunnel.
	PushRoutes []netip.Prefix

	// PushDNS are name servers for the clients, which use them for all names if everything goes into
	// the tunnel, else for those below PushDomains.
	PushDNS     []netip.Addr
	PushDomains []string

	// Nameserver answers questions about names on the gateway's own address: clients below DNSDomain, DNSZones (the empty name is the zone
	// itself, * all others), and for all else those whom DNSForward names for a domain, or DNSUpstream.
	Nameserver  bool
	DNSDomain   string
	DNSUpstream []netip.AddrPort
	DNSForward  map[string][]netip.AddrPort
	DNSZones    map[string]map[string]netip.Addr

	// Allow and Deny say where packets of clients may go besides other clients and the gateway's
	// own pool address; the longest prefix wins, and in it what names a port. Denied unless named: loopback, link-local,
	// multicast, reserved ranges and the other addresses of the gateway's own host.
	Allow, Deny []policy.Target

	Exit     string // what is behind the gateway: ExitKernel or ExitUser
	TUN      string // name of the interface; none with ExitUser
	MTU      int    // bytes; also pushed to the clients
	StateDir string // where leases are kept
	NAT      bool   // masquerade the pool out of this host

	Isolate          bool // no packets from client to client
	LegacySelfAssign bool // a 2013 client may use a free pool address it never asked for

	// ResumeTimeout is how long the session of a device waits for it after its last connection was lost;
	// SessionLifetime is when it ends whatever happens, and a new one has to begin.
	ResumeTimeout, SessionLifetime time.Duration

	IdleTimeout  time.Duration // a client silent for so long is dropped, and its address held as long again
	JoinTimeout  time.Duration // until the first address request is complete
	FrameTimeout time.Duration // until a packet that has begun is complete
	WriteTimeout time.Duration // without progress in sending
	MaxSessions  int           // connections in all
	// Limits on who may come in. Sessions is MaxSessions, and Plain, unless it is set, half of that
	// where the gateway has a key. Defaults are DefaultLimits.
	Limits     admission.Limits
	QueueBytes int // waiting for one client
	QueueTotal int // waiting for all clients, bytes
	// HeapLimit is where the collector begins to work harder (debug.SetMemoryLimit), bytes; 0: nowhere.
	HeapLimit int64

	Version string // of the program, for the operator

	Log       *slog.Logger     // nil: discard
	LogFormat string           // that Log has, to tell whether it was changed
	LogLevel  slog.Level       // that Log has
	SetLevel  func(slog.Level) // changes that of Log; nil: it can not be changed

	Tunnels func() map[string]uint64 // counts what came by VTunnelListen, for the operator; nil: nothing can

	Ready  func()          // called once when clients can connect; may be nil
	Report <-chan struct{} // each receive logs all counters; may be nil
	// OpenFile opens a file that was named to who confines this process, also after that; nil: there are none.
	OpenFile func(path string) (*os.File, error)
	// Reread returns what the configuration says now, for a reload; nil: there is none to read again.
	Reread func() (Config, error)
	Reload <-chan struct{} // each receive applies what Reread returns; may be nil
}

// What may be behind a gateway.
const (
	ExitKernel = "kernel" // this host's network, by a TUN, which takes CAP_NET_ADMIN
	ExitUser   = "user"   // what sockets of this process reach, which takes no rights
)

// ProfileGvproxy is the address plan of gvproxy (docs/gvproxy.md).
const ProfileGvproxy = "gvproxy"

// A Service is a port of a protocol; port 0: all of it.
type Service struct {
	Protocol uint8 // IANA, protocol numbers
	Port     uint16
}

// DefaultEnds are the times after which connections and flows end. A question to port 53 has one answer.
var DefaultEnds = map[Service]time.Duration{
	{Protocol: policy.TCP}: 2 * time.Hour, {Protocol: policy.UDP}: 2 * time.Minute, {Protocol: policy.UDP, Port: 53}: 10 * time.Second, {Protocol: policy.ICMP}: 10 * time.Second,
}

// IdleOf returns after how long without a byte a connection or a flow to a port ends.
func (c *Config) IdleOf(protocol uint8, port uint16) time.Duration {
	for _, s := range []Service{{protocol, port}, {protocol, 0}} {
		if d, ok := c.Idle[s]; ok {
			return d
		}
	}
	return DefaultEnds[Service{Protocol: protocol}]
}

// SetDefaults puts defaults where a field is zero.
func (c *Config) SetDefaults() {
	c.Pool = cmp.Or(c.Pool, DefaultPool)
	if c.Key.IsZero() {
		c.PlainPool = c.Pool
	} else if !c.PlainPool.IsValid() {
		c.PlainPool = UpperHalf(c.Pool)
	}
	if c.Exit = cmp.Or(c.Exit, ExitKernel); c.Exit == ExitKernel {
		c.TUN = cmp.Or(c.TUN, DefaultTUN)
	} else {
		c.TUN = ""
	}
	c.MTU = cmp.Or(c.MTU, DefaultMTU)
	c.DialTimeout = cmp.Or(c.DialTimeout, DefaultDeadline)
	c.Dials, c.ClientDials = cmp.Or(c.Dials, DefaultDials), cmp.Or(c.ClientDials, DefaultClientDials)
	c.Conns, c.Flows = cmp.Or(c.Conns, DefaultConns), cmp.Or(c.Flows, DefaultFlows)
	c.ConnMemory = cmp.Or(c.ConnMemory, DefaultConnMemory)
	if c.Idle == nil {
		c.Idle = DefaultEnds
	}
	c.PublishHost, c.PublishPorts = cmp.Or(c.PublishHost, DefaultPublishHost), cmp.Or(c.PublishPorts, DefaultPublishPorts)
	c.PublishLimit = cmp.Or(c.PublishLimit, proto.MaxServices)
	c.DNSDomain = cmp.Or(c.DNSDomain, DefaultDomain)
	c.StateDir = cmp.Or(c.StateDir, DefaultStateDir)
	c.ResumeTimeout = cmp.Or(c.ResumeTimeout, DefaultResume)
	c.SessionLifetime = cmp.Or(c.SessionLifetime, DefaultLifetime)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdle)
	c.JoinTimeout = cmp.Or(c.JoinTimeout, DefaultDeadline)
	c.FrameTimeout = cmp.Or(c.FrameTimeout, DefaultDeadline)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, DefaultDeadline)
	c.MaxSessions = cmp.Or(c.MaxSessions, DefaultMaxSessions)
	c.setLimits()
	c.QueueBytes = cmp.Or(c.QueueBytes, DefaultQueue)
	c.QueueTotal = cmp.Or(c.QueueTotal, DefaultQueueTotal)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Address returns the gateway's own address in the pool, the first one, with the length of the pool's prefix.
func (c *Config) Address() netip.Prefix {
	return netip.PrefixFrom(c.Pool.Masked().Addr().Next(), c.Pool.Bits())
}

// UpperHalf returns the half of pool from which 2013 clients got their addresses first.
func UpperHalf(pool netip.Prefix) netip.Prefix {
	bits := pool.Bits() + 1
	b := pool.Masked().Addr().As4()
	b[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
	return netip.PrefixFrom(netip.AddrFrom4(b), bits)
}

func (c *Config) setLimits() {
	l, d := &c.Limits, DefaultLimits
	l.Sessions = c.MaxSessions
	switch {
	case c.Key.IsZero():
		l.Plain = l.Sessions
		d.SourceSessions, d.SourceUnknown, d.SourceRate, d.SourceBurst, d.Rate = noLimit, noLimit, noLimit, noLimit, noLimit
	case l.Plain == 0:
		l.Plain = max(l.Sessions/2, 1)
	}
	l.Unknown = cmp.Or(l.Unknown, d.Unknown)
	l.SourceSessions = cmp.Or(l.SourceSessions, d.SourceSessions)
	l.SourceUnknown = cmp.Or(l.SourceUnknown, d.SourceUnknown)
	l.SourceRate = cmp.Or(l.SourceRate, d.SourceRate)
	l.SourceBurst = cmp.Or(l.SourceBurst, d.SourceBurst)
	l.Rate = cmp.Or(l.Rate, d.Rate)
	l.Penalty = cmp.Or(l.Penalty, d.Penalty)
	l.PenaltyMax = cmp.Or(l.PenaltyMax, d.PenaltyMax)
}
