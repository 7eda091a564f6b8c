package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ferry/internal/admission"
	"ferry/internal/carrier"
	"ferry/internal/forward"
	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
)

// Bounds of both programs.
const (
	mtuMin, mtuMax = 576, 65535            // bytes; RFC 791 section 3.2, and what a TUN takes
	queueMin       = 128 << 10             // bytes; two super-packets
	timeMin        = 10 * time.Millisecond // below is a typing error
	timeMax        = 24 * time.Hour
	// The gateway tells its clients idle_timeout in whole seconds and 16 bits.
	idleMin, idleMax = time.Second, math.MaxUint16 * time.Second
)

// Gateway has the keys of vpnsrv as they are written. NewGateway makes one.
type Gateway struct {
	Listen           []string          `toml:"listen"`
	VTunnelListen    []string          `toml:"vtunnel_listen"`
	L2Listen         []string          `toml:"l2_listen"`
	Profile          string            `toml:"profile"`
	GvproxyAPI       []string          `toml:"gvproxy_api"`
	GvproxyListen    []string          `toml:"gvproxy_listen"`
	GvproxyInside    bool              `toml:"gvproxy_inside"`
	GvproxyKeys      []string          `toml:"gvproxy_keys"`
	Notification     string            `toml:"notification"`
	Key              string            `toml:"key"`
	Public           []string          `toml:"public"`
	Pool             string            `toml:"pool"`
	PlainPool        string            `toml:"plain_pool"`
	MixPlain         bool              `toml:"mix_plain"`
	Metrics          string            `toml:"metrics"`
	Exit             string            `toml:"exit"`
	TUN              string            `toml:"tun"`
	MTU              int               `toml:"mtu"` // bytes
	State            string            `toml:"state"`
	NAT              bool              `toml:"nat"`
	Isolate          bool              `toml:"isolate"`
	PushRoute        []string          `toml:"push_route"`
	PushDNS          []string          `toml:"push_dns"`
	PushDomains      []string          `toml:"push_domains"`
	Nameserver       bool              `toml:"nameserver"`
	DNSUpstream      []string          `toml:"dns_upstream"`
	DNSDomain        string            `toml:"dns_domain"`
	Allow            []string          `toml:"allow"`
	Deny             []string          `toml:"deny"`
	LegacySelfAssign bool              `toml:"legacy_self_assign"`
	IdleTimeout      string            `toml:"idle_timeout"`
	ResumeTimeout    string            `toml:"resume_timeout"`
	SessionLifetime  string            `toml:"session_lifetime"`
	JoinTimeout      string            `toml:"join_timeout"`
	FrameTimeout     string            `toml:"frame_timeout"`
	WriteTimeout     string            `toml:"write_timeout"`
	MaxSessions      int               `toml:"max_sessions"`
	MaxPlain         int               `toml:"max_plain"` // 0: half of max_sessions with a key
	MaxUnknown       int               `toml:"max_unauthenticated"`
	SourceSessions   int               `toml:"source_sessions"` // 0, as below: a default with a key, no limit without
	SourceUnknown    int               `toml:"source_unauthenticated"`
	SourceRate       int               `toml:"source_rate"` // a second
	SourceBurst      int               `toml:"source_burst"`
	AcceptRate       int               `toml:"accept_rate"` // a second
	Penalty          string            `toml:"penalty"`
	PenaltyMax       string            `toml:"penalty_max"`
	QueueBytes       int               `toml:"queue_bytes"`
	QueueTotal       int               `toml:"queue_total"` // bytes
	Reserved         map[string]string `toml:"reserved"`
	Sites            map[string]string `toml:"sites"`
	Alias            map[string]string `toml:"alias"`
	DialTimeout      string            `toml:"dial_timeout"`
	Dials            int               `toml:"dials"`
	ClientDials      int               `toml:"client_dials"`
	Conns            int               `toml:"connections"`
	Flows            int               `toml:"flows"`
	ConnMemory       int               `toml:"connection_memory"` // bytes
	Idle             map[string]string `toml:"idle"`
	Forwards         map[string]string `toml:"forwards"`

	DNSForward map[string][]string          `toml:"dns_forward"`
	DNSZones   map[string]map[string]string `toml:"dns_zones"`
	Publishing
	Process

	flags *pflag.FlagSet
	file  string // that Load has read; empty: none
}

// NewGateway returns the defaults, and adds the flags of vpnsrv to fs.
func NewGateway(fs *pflag.FlagSet) *Gateway {
	l := settings.DefaultLimits
	g := &Gateway{
		Pool: settings.DefaultPool.String(), Exit: settings.ExitKernel, TUN: settings.DefaultTUN, DNSDomain: settings.DefaultDomain, MTU: settings.DefaultMTU, State: settings.DefaultStateDir,
		ResumeTimeout: shortest(settings.DefaultResume), SessionLifetime: shortest(settings.DefaultLifetime),
		IdleTimeout: shortest(settings.DefaultIdle), JoinTimeout: shortest(settings.DefaultDeadline),
		FrameTimeout: shortest(settings.DefaultDeadline), WriteTimeout: shortest(settings.DefaultDeadline),
		MaxSessions: settings.DefaultMaxSessions, QueueBytes: settings.DefaultQueue, QueueTotal: settings.DefaultQueueTotal,
		DialTimeout: shortest(settings.DefaultDeadline), Dials: settings.DefaultDials, ClientDials: settings.DefaultClientDials,
		Conns: settings.DefaultConns, Flows: settings.DefaultFlows, ConnMemory: settings.DefaultConnMemory,
		MaxUnknown: l.Unknown,
		Penalty:    shortest(l.Penalty), PenaltyMax: shortest(l.PenaltyMax),
		flags: fs,
	}
	fs.SortFlags = false
	fs.StringArrayVar(&g.Listen, "listen", nil, "`URL` where clients come in: tcp://[host]:port, vsock://[cid]:port, unix:///path,\neach with ?allow=plain, tls or both; repeatable (default tcp://:2002, and vsock://:2002 where /dev/vsock exists)")
	fs.StringArrayVar(&g.VTunnelListen, "vtunnel-listen", nil, "`URL` where clients of vtunnel come in: vsock://:6666, unix:///path or tcp://host:port, each with ?auth=STRING\nand &accept=CIDR, the destinations that they may ask for (127.0.0.1/32 unless it is there); repeatable")
	fs.StringArrayVar(&g.L2Listen, "l2-listen", nil, "`URL` where machines without a client are plugged in by Ethernet: qemu+unix:///path,\nqemu+tcp://127.0.0.1:port, bess+unix:///path, vfkit+unix:///path, stdio:; repeatable")
	g.gvproxyFlags(fs)
	fs.StringVar(&g.Key, "key", "", "`file` with the gateway's key, as 'vpnsrv init' makes it (default: none, the 2013 protocol with whoever comes)")
	fs.StringArrayVar(&g.Public, "public", nil, "`URL` by which devices find this gateway, for invitations; repeatable (default: the addresses of this host)")
	fs.StringVar(&g.Pool, "pool", g.Pool, "`CIDR` of the clients' addresses, /16 to /30; the first address is the gateway's")
	fs.StringVar(&g.Exit, "exit", g.Exit, "`kind` of network behind the gateway: kernel, this host's, or user, what sockets of vpnsrv reach; user needs\nneither root nor an interface")
	fs.StringVar(&g.TUN, "tun", g.TUN, "`name` of the interface")
	fs.IntVar(&g.MTU, "mtu", g.MTU, "of the interface and of the clients, in `bytes` (where clients come by udp, icmp or dns 1400, by quic 1380, by connect-ip 1346)")
	fs.StringVar(&g.State, "state", g.State, "`directory` that keeps leases, devices and the control socket")
	fs.BoolVar(&g.NAT, "nat", false, "masquerade the pool out of this host")
	fs.BoolVar(&g.Isolate, "isolate", false, "let no packets pass from client to client")
	g.Publishing.bind(fs)
	fs.StringArrayVar(&g.PushRoute, "push-route", nil, "`CIDR` for the clients to route into the tunnel; repeatable")
	fs.StringArrayVar(&g.PushDNS, "push-dns", nil, "`address` of a name server for the clients; repeatable")
	fs.StringArrayVar(&g.PushDomains, "push-domains", nil, "`domain` whose names the pushed name servers know; repeatable (default: clients ask them for all names,\nand take them only if everything goes into their tunnel)")
	addCommon(fs, &g.Process, "vpnsrv")
	fs.BoolVar(&g.Nameserver, "nameserver", false, "answer questions about names on the gateway's own address: those of clients, NAME."+settings.DefaultDomain+", and\nby --dns-upstream all others; clients are told of it unless --push-dns names another")
	fs.StringArrayVar(&g.DNSUpstream, "dns-upstream", nil, "`address` of a name server that is asked for all other names, with --nameserver; repeatable (default: those of /etc/resolv.conf)")
	return g
}

// addCommon adds the flags that both programs have.
func addCommon(fs *pflag.FlagSet, l *Process, program string) {
	fs.String("config", "", "TOML `file` with these settings and more; flags win (default: "+DefaultFile(program)+" if it is there;\n--config= reads none)")
	l.bind(fs)
	fs.BoolP("version", "V", false, "print the version and end")
	fs.BoolP("help", "h", false, "print this help and end")
}

// shortest writes d as people do: 60s, not 1m0s.
func shortest(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return d.String()
}

// Load reads the file of --config, if any, and returns what it and the flags say, checked, with a
// logger to stderr. A fault of the command line is a *UsageError.
func (g *Gateway) Load() (settings.Config, error) { return g.load(os.Open) }

func (g *Gateway) load(open open) (settings.Config, error) {
	s, err := load(g.flags, "vpnsrv", g, open)
	if err != nil {
		return settings.Config{}, err
	}
	g.file = s.path
	g.applyProfile(s)
	wait := between(timeMin, timeMax)
	c := settings.Config{
		Listen:           readList(s, "listen", g.Listen, parseListen),
		VTunnelListen:    readList(s, "vtunnel_listen", g.VTunnelListen, parseVTunnel),
		L2Listen:         readList(s, "l2_listen", g.L2Listen, parseL2Listen),
		Profile:          read(s, "profile", g.Profile, parseProfile),
		GvproxyAPI:       readList(s, "gvproxy_api", g.GvproxyAPI, parseGvproxy),
		GvproxyListen:    readList(s, "gvproxy_listen", g.GvproxyListen, parseGvproxy),
		GvproxyInside:    g.GvproxyInside,
		GvproxyKeys:      readList(s, "gvproxy_keys", g.GvproxyKeys, parseFile),
		Notification:     read(s, "notification", g.Notification, optional(parseNotification)),
		Key:              read(s, "key", g.Key, optional(keyBy(open))),
		Public:           readList(s, "public", g.Public, parsePublic),
		Pool:             read(s, "pool", g.Pool, parsePool),
		Mix:              g.MixPlain,
		Metrics:          read(s, "metrics", g.Metrics, optional(parseHostPort)),
		Exit:             read(s, "exit", g.Exit, parseExit),
		DialTimeout:      read(s, "dial_timeout", g.DialTimeout, wait),
		Dials:            inRange(s, "dials", g.Dials, 1, most),
		ClientDials:      inRange(s, "client_dials", g.ClientDials, 1, most),
		Conns:            inRange(s, "connections", g.Conns, 1, most),
		Flows:            inRange(s, "flows", g.Flows, 1, most),
		ConnMemory:       inRange(s, "connection_memory", g.ConnMemory, leastConnMemory, math.MaxInt32),
		Idle:             idle(s, g.Idle),
		TUN:              read(s, "tun", g.TUN, parseInterface),
		MTU:              inRange(s, "mtu", g.MTU, mtuMin, mtuMax),
		StateDir:         read(s, "state", g.State, parseDir),
		NAT:              g.NAT,
		Isolate:          g.Isolate,
		PushRoutes:       readList(s, "push_route", g.PushRoute, parsePrefix),
		PushDNS:          readList(s, "push_dns", g.PushDNS, parseNameServer),
		PushDomains:      readList(s, "push_domains", g.PushDomains, parseDomain),
		Allow:            readList(s, "allow", g.Allow, parseTarget),
		Deny:             readList(s, "deny", g.Deny, parseTarget),
		LegacySelfAssign: g.LegacySelfAssign,
		IdleTimeout:      read(s, "idle_timeout", g.IdleTimeout, between(idleMin, idleMax)),
		ResumeTimeout:    read(s, "resume_timeout", g.ResumeTimeout, between(time.Second, settings.MaxLifetime)),
		SessionLifetime:  read(s, "session_lifetime", g.SessionLifetime, between(time.Minute, settings.MaxLifetime)),
		JoinTimeout:      read(s, "join_timeout", g.JoinTimeout, wait),
		FrameTimeout:     read(s, "frame_timeout", g.FrameTimeout, wait),
		WriteTimeout:     read(s, "write_timeout", g.WriteTimeout, wait),
		MaxSessions:      inRange(s, "max_sessions", g.MaxSessions, 1, 1_000_000),
		Limits:           g.limits(s),
		QueueBytes:       inRange(s, "queue_bytes", g.QueueBytes, queueMin, math.MaxInt32),
		QueueTotal:       inRange(s, "queue_total", g.QueueTotal, g.QueueBytes, math.MaxInt32),
		LogFormat:        g.Format,
	}
	c.Log, c.LogLevel, c.SetLevel = g.logger(s, os.Stderr)
	if !c.Key.IsZero() {
		c.NextKey = read(s, "key", g.Key+settings.NextKeySuffix, nextPin(open))
	}
	if c.Exit == settings.ExitUser && !g.flags.Changed("state") && !s.isSet("state") {
		c.StateDir = userState(c.StateDir)
	}
	if !g.flags.Changed("mtu") && !s.isSet("mtu") {
		c.MTU = fittingMTU(c.MTU, g.Listen)
	}
	if s.err != nil { // what follows is judged by the pool
		return settings.Config{}, s.err
	}
	g.names(s, &c, open)
	g.publishing(s, &c)
	checkPushed(s, c.PushRoutes, c.Pool)
	checkPushedNames(s, c.PushDNS, c.PushDomains, c.Nameserver)
	c.PlainPool = plainPool(s, g.PlainPool, c)
	c.Reserved = reserved(s, g.Reserved, c.PlainPool)
	c.Sites = sites(s, g.Sites, c.PlainPool)
	c.Alias = aliases(s, g.Alias, &c)
	c.Forwards = forwards(s, g.Forwards, c.Exit)
	return boundMemory(c, s.isSet, memory()), s.err
}

// fittingMTU returns an MTU whose packets go in one datagram each by whatever the gateway listens on.
func fittingMTU(mtu int, listen []string) int {
	for _, url := range listen {
		if fits := carrier.MTU(url); fits > 0 {
			mtu = min(mtu, fits)
		}
	}
	return mtu
}

// Reread returns what Load would return if the program was started now, with the same flags. The file that
// Load has read has to be there still: without it a gateway would go back to defaults, and be open. open opens the
// files that Files names.
func (g *Gateway) Reread(open func(path string) (*os.File, error)) (settings.Config, error) {
	fs := pflag.NewFlagSet("vpnsrv", pflag.ContinueOnError)
	fresh := NewGateway(fs)
	if err := again(fs, g.flags); err != nil {
		return settings.Config{}, err
	}
	if g.file != "" {
		if err := fs.Set("config", g.file); err != nil {
			return settings.Config{}, err
		}
	}
	return fresh.load(open)
}

// Files returns the paths that Reread opens.
func (g *Gateway) Files() []string {
	files := []string{cmp.Or(g.file, DefaultFile("vpnsrv"))}
	if g.Key != "" {
		files = append(files, g.Key, g.Key+settings.NextKeySuffix)
	}
	if g.Nameserver && len(g.DNSUpstream) == 0 {
		files = append(files, resolvConf)
		if real, err := filepath.EvalSymlinks(resolvConf); err == nil && real != resolvConf {
			files = append(files, real)
		}
	}
	return files
}

// most is the highest limit that makes sense of anything.
const most = 1_000_000

// limits reads those on who may come in.
func (g *Gateway) limits(s *source) admission.Limits {
	return admission.Limits{
		Plain:          inRange(s, "max_plain", g.MaxPlain, 0, most),
		Unknown:        inRange(s, "max_unauthenticated", g.MaxUnknown, 2, most),
		SourceSessions: inRange(s, "source_sessions", g.SourceSessions, 0, most),
		SourceUnknown:  inRange(s, "source_unauthenticated", g.SourceUnknown, 0, most),
		SourceRate:     float64(inRange(s, "source_rate", g.SourceRate, 0, most)),
		SourceBurst:    inRange(s, "source_burst", g.SourceBurst, 0, most),
		Rate:           float64(inRange(s, "accept_rate", g.AcceptRate, 0, most)),
		Penalty:        read(s, "penalty", g.Penalty, between(timeMin, timeMax)),
		PenaltyMax:     read(s, "penalty_max", g.PenaltyMax, between(timeMin, timeMax)),
	}
}

// keyBy returns what reads a key from a path.
func keyBy(open open) func(string) (identity.Key, error) {
	return func(path string) (identity.Key, error) {
		f, err := open(path)
		if err != nil {
			return identity.Key{}, fmt.Errorf("load key: %w", err)
		}
		defer f.Close()
		return identity.ReadKey(f)
	}
}

// nextPin returns what reads the pin of a key that may be there.
func nextPin(open open) func(string) (identity.Pin, error) {
	return func(path string) (identity.Pin, error) {
		k, err := keyBy(open)(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return identity.Pin{}, nil
		case err != nil:
			return identity.Pin{}, err
		}
		return k.Public().Pin(), nil
	}
}

// plainPool returns where clients without a key get their addresses.
func plainPool(s *source, text string, c settings.Config) netip.Prefix {
	const key = "plain_pool"
	switch {
	case c.Key.IsZero() && text != "":
		s.fail(key, errors.New("without a key of the gateway all clients are plain: leave it out, or see 'vpnsrv init'"))
	case c.Key.IsZero():
		return c.Pool
	case text == "" && c.Pool.Bits() == poolBitsMax:
		s.fail("pool", fmt.Errorf("%s has no room for devices with a key and for clients without one: take /%d or larger", c.Pool, poolBitsMax-1))
	case text == "":
		return settings.UpperHalf(c.Pool)
	}
	p := read(s, key, text, parsePool)
	if p.Bits() <= c.Pool.Bits() || !c.Pool.Overlaps(p) {
		s.fail(key, fmt.Errorf("%s is not a part of the pool %s: take one, as %s", p, c.Pool, settings.UpperHalf(c.Pool)))
	}
	return p
}

// checkPushed refuses routes that no client would take from its gateway.
func checkPushed(s *source, routes []netip.Prefix, pool netip.Prefix) {
	const key = "push_route"
	if len(routes) > proto.MaxRoutes {
		s.fail(key, fmt.Errorf("%d routes: at most %d can be pushed", len(routes), proto.MaxRoutes))
	}
	for _, r := range routes {
		switch {
		case r.Bits() < 8:
			s.fail(key, fmt.Errorf("%s is too large for clients to take: they route so much only by --default-route of their own", r))
		case r.Overlaps(pool):
			s.fail(key, fmt.Errorf("%s overlaps the pool %s, which the clients route anyway: leave it out", r, pool))
		}
	}
}

func checkPushedNames(s *source, servers []netip.Addr, domains []string, own bool) {
	switch {
	case len(servers) > proto.MaxDNS:
		s.fail("push_dns", fmt.Errorf("%d name servers: at most %d can be pushed", len(servers), proto.MaxDNS))
	case len(strings.Join(domains, " ")) > proto.MaxDomains:
		s.fail("push_domains", fmt.Errorf("longer than %d bytes together: name fewer, or the domain that they are in", proto.MaxDomains))
	case len(domains) > 0 && len(servers) == 0 && !own:
		s.fail("push_domains", errors.New("who knows them? Name a server with push_dns"))
	}
}

// reserved reads the addresses that belong to names.
func reserved(s *source, texts map[string]string, pool netip.Prefix) map[string]netip.Addr {
	all := make(map[string]netip.Addr)
	owner := make(map[netip.Addr]string)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		key := "reserved." + name
		read(s, key, name, identity.ParseName)
		a := read(s, key, texts[name], inPool(pool))
		if other := owner[a]; other != "" {
			s.fail(key, fmt.Errorf("%s is reserved for %q already: choose another address", a, other))
		}
		all[name], owner[a] = a, name
	}
	return all
}

// sites reads the networks behind clients.
func sites(s *source, texts map[string]string, pool netip.Prefix) map[netip.Prefix]netip.Addr {
	all := make(map[netip.Prefix]netip.Addr)
	for _, prefix := range slices.Sorted(maps.Keys(texts)) {
		key := "sites." + prefix
		p := read(s, key, prefix, parsePrefix)
		if p.IsValid() && p.Overlaps(pool) {
			s.fail(key, fmt.Errorf("overlaps the pool %s: a site is a network outside of it", pool))
		}
		all[p] = read(s, key, texts[prefix], inPool(pool))
	}
	return all
}

// idle reads after how long without a byte what ends: "tcp", "udp", "icmp", "53/udp".
func idle(s *source, texts map[string]string) map[settings.Service]time.Duration {
	all := maps.Clone(settings.DefaultEnds)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		key := "idle." + name
		all[read(s, key, name, parseService)] = read(s, key, texts[name], between(timeMin, timeMax))
	}
	return all
}

// parseService reads a protocol, or a port of one.
func parseService(text string) (settings.Service, error) {
	switch text {
	case "tcp":
		return settings.Service{Protocol: policy.TCP}, nil
	case "udp":
		return settings.Service{Protocol: policy.UDP}, nil
	case "icmp":
		return settings.Service{Protocol: policy.ICMP}, nil
	}
	port, protocol, err := policy.ParsePort(text)
	if err == nil && protocol == 0 {
		err = fmt.Errorf("%q is a port of which protocol? Write %s/tcp or %s/udp", text, text, text)
	}
	return settings.Service{Protocol: protocol, Port: port}, err
}

// forwards reads the published ports.
func forwards(s *source, texts map[string]string, exit string) (all []forward.Spec) {
	if len(texts) > forward.MaxForwards {
		s.fail("forwards", fmt.Errorf("there are %d, more than %d", len(texts), forward.MaxForwards))
	}
	for _, from := range slices.Sorted(maps.Keys(texts)) {
		spec, err := forward.Parse(from, texts[from])
		if err == nil && exit == settings.ExitUser && spec.From.Source.IsValid() {
			err = errors.New("with exit = \"user\" clients see the gateway's address: leave out source")
		}
		if err != nil {
			s.fail("forwards."+from, err)
		}
		all = append(all, spec)
	}
	return all
}

// inPool returns a parser of the addresses that a client can have.
func inPool(pool netip.Prefix) func(string) (netip.Addr, error) {
	return func(text string) (netip.Addr, error) {
		a, err := parseAddr(text)
		if err != nil {
			return a, err
		}
		network := pool.Addr()
		switch {
		case !pool.Contains(a):
			return a, fmt.Errorf("%s is not in the pool %s", a, pool)
		case a == network.Next():
			return a, fmt.Errorf("%s is the gateway's own address", a)
		case a == network || !pool.Contains(a.Next()):
			return a, fmt.Errorf("%s is the network or the broadcast address of the pool %s", a, pool)
		}
		return a, nil
	}
}
