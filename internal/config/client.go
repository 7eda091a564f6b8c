package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"ferry/internal/carrier"
	"ferry/internal/client"
	"ferry/internal/forward"
	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// Client has the keys of vpncli as they are written. NewClient makes one.
type Client struct {
	Server       string   `toml:"server"`
	Carrier      string   `toml:"carrier"`
	Gateway      string   `toml:"gateway"`
	Plain        bool     `toml:"plain"`
	State        string   `toml:"state"`
	Port         int      `toml:"port"`
	Address      string   `toml:"address"`
	Name         string   `toml:"name"`
	TUN          string   `toml:"tun"`
	User         bool     `toml:"user"`
	SOCKS5       string   `toml:"socks5"`
	HTTPProxy    string   `toml:"http_proxy"`
	Local        []string `toml:"local_forward"`
	Remote       []string `toml:"remote_forward"`
	Publish      string   `toml:"publish"`
	PublishWait  string   `toml:"publish_debounce"`
	PublishLimit int      `toml:"publish_limit"`
	MTU          int      `toml:"mtu"` // bytes; 0: as the gateway says
	Route        []string `toml:"route"`
	DefaultRoute bool     `toml:"default_route"`
	AllowLAN     bool     `toml:"allow_lan"`
	AcceptRoutes bool     `toml:"accept_routes"`
	AcceptDNS    bool     `toml:"accept_dns"`
	AcceptPrefix []string `toml:"accept_prefix"`
	Mark         uint32   `toml:"mark"`
	Table        int      `toml:"table"`
	Keepalive    string   `toml:"keepalive"`
	RetryMin     string   `toml:"retry_min"`
	RetryMax     string   `toml:"retry_max"`
	QueueBytes   int      `toml:"queue_bytes"`
	Process

	flags *pflag.FlagSet
	peek  bool // nothing is made
}

// NewClient returns the defaults, and adds the flags of vpncli to fs.
func NewClient(fs *pflag.FlagSet) *Client {
	c := &Client{
		State: client.DefaultStateDir,
		Port:  client.DefaultPort, Carrier: "auto", TUN: client.DefaultTUN, AllowLAN: true, AcceptRoutes: true, AcceptDNS: true,
		Mark: client.DefaultMark, Table: client.DefaultTable, Keepalive: shortest(client.DefaultKeepalive),
		RetryMin: shortest(client.DefaultRetryMin), RetryMax: shortest(client.DefaultRetryMax),
		QueueBytes: client.DefaultQueue, PublishWait: shortest(client.DefaultDebounce), PublishLimit: client.DefaultPublished,
		flags: fs,
	}
	fs.SortFlags = false
	fs.StringVarP(&c.Server, "server", "s", "", "the `server`: a name or an address, or a URL: tcp://host:port, wss://host/path, vsock://cid:port,\nunix:///path, unix:///path?vsock=port; several with commas between")
	fs.StringVar(&c.Carrier, "carrier", c.Carrier, "`names` of the carriers to use, with commas between: "+carrier.Schemes()+"; auto: all that the\ngateway has, of a server that is named without one")
	fs.StringVarP(&c.Address, "address", "a", "", "static `address` to ask for (default: the gateway chooses)")
	fs.IntVarP(&c.Port, "port", "p", c.Port, "`port` of a server that is named without one")
	fs.StringVar(&c.Gateway, "gateway", "", "`fingerprint` of the gateway's key, as 'vpnsrv init' prints it (default: what 'vpncli join' has learned)")
	fs.BoolVar(&c.Plain, "plain", false, "speak the 2013 protocol, without keys and encryption, though this device has joined a gateway")
	fs.StringVar(&c.State, "state", c.State, "`directory` that keeps this device's key and what it knows of its gateway")
	fs.StringVar(&c.Name, "name", "", "`name` of this device, for which the gateway may have an address reserved")
	fs.StringVar(&c.TUN, "tun", c.TUN, "`name` of the interface")
	fs.BoolVar(&c.User, "user", false, "run without root and without an interface: programs reach what is in the tunnel by --socks5, --http-proxy and -L")
	fs.StringVar(&c.SOCKS5, "socks5", "", "`host:port` of a SOCKS5 proxy into the tunnel, with --user (default: none)")
	fs.StringVar(&c.HTTPProxy, "http-proxy", "", "`host:port` of an HTTP proxy into the tunnel, with --user (default: none)")
	fs.StringArrayVarP(&c.Local, "local-forward", "L", nil, "`forward` as ssh has it, [udp:][bind:]port:host:hostport or /path:host:hostport: listen on this device,\nconnect through the tunnel; repeatable (port 0: any; 8080+: the next that is free)")
	fs.StringArrayVarP(&c.Remote, "remote-forward", "R", nil, "`forward` as ssh has it, [udp:]port:host:hostport or port:/path: listen on this device's address in the\ntunnel, connect on this device; repeatable (?from=10.0.3.4 behind it: who may come; also with -L)")
	fs.StringVar(&c.Publish, "publish", "", "`services` of this device that the gateway publishes on ports of its host, while they listen: auto (all), tcp:80,\nudp:53; with auto also loopback (those for this device alone), names (tell their programs), -tcp:22 (but this one)")
	fs.IntVar(&c.MTU, "mtu", 0, "of the interface, in `bytes` (default: what the gateway says, or 1500)")
	fs.StringArrayVar(&c.Route, "route", nil, "`CIDR` to route into the tunnel; repeatable")
	fs.BoolVar(&c.DefaultRoute, "default-route", false, "route everything into the tunnel but the connection to the gateway")
	fs.BoolVar(&c.AllowLAN, "allow-lan", c.AllowLAN, "with --default-route: still reach the private networks that this device has an address in,\nand be reached from them (close them, too: --allow-lan=false)")
	fs.BoolVar(&c.AcceptRoutes, "accept-routes", c.AcceptRoutes, "take the routes that the gateway pushes (refuse them: --accept-routes=false)")
	fs.BoolVar(&c.AcceptDNS, "accept-dns", c.AcceptDNS, "take the name servers that the gateway pushes: with --default-route for all names, else for the\ndomains that it pushes, if systemd-resolved runs (refuse them: --accept-dns=false)")
	fs.StringArrayVar(&c.AcceptPrefix, "accept-prefix", nil, "`CIDR` of which the gateway may give an address; repeatable (default: 10.0.0.0/8, 172.16.0.0/12,\n192.168.0.0/16, 100.64.0.0/10, 198.18.0.0/15)")
	addCommon(fs, &c.Process, "vpncli")
	return c
}

// Load reads the file of --config, if any, and returns what it and the flags say, checked, with a
// logger to stderr. A fault of the command line is a *UsageError.
func (k *Client) Load() (client.Config, error) {
	s, err := load(k.flags, "vpncli", k, os.Open)
	if err != nil {
		return client.Config{}, err
	}
	wait := between(timeMin, timeMax)
	c := client.Config{
		Port:    inRange(s, "port", k.Port, 1, math.MaxUint16),
		Gateway: read(s, "gateway", k.Gateway, optional(identity.ParsePin)),
		Address: read(s, "address", k.Address, optional(parseAddr)),
		Name:    read(s, "name", k.Name, optional(identity.ParseName)),
		TUN:     read(s, "tun", k.TUN, parseInterface),
		Policy: policy.Rules{
			Accept:       readList(s, "accept_prefix", k.AcceptPrefix, parsePrefix),
			MTU:          k.MTU,
			Routes:       readList(s, "route", k.Route, parsePrefix),
			DefaultRoute: k.DefaultRoute,
			RefuseRoutes: !k.AcceptRoutes,
			RefuseDNS:    !k.AcceptDNS,
		},
		User:      k.User,
		SOCKS5:    read(s, "socks5", k.SOCKS5, optional(parseHostPort)),
		HTTPProxy: read(s, "http_proxy", k.HTTPProxy, optional(parseHostPort)),
		Local:     readList(s, "local_forward", k.Local, forward.ParseLocal),
		Remote:    readList(s, "remote_forward", k.Remote, forward.ParseRemote),
		Publish:   read(s, "publish", k.Publish, optional(publish.ParseWhat)),

		PublishDebounce: read(s, "publish_debounce", k.PublishWait, between(0, timeMax)),
		PublishLimit:    inRange(s, "publish_limit", k.PublishLimit, 1, proto.MaxServices),

		CloseLAN:   !k.AllowLAN,
		Mark:       k.Mark,
		Table:      inRange(s, "table", k.Table, 1, 9999),
		Keepalive:  read(s, "keepalive", k.Keepalive, wait),
		RetryMin:   read(s, "retry_min", k.RetryMin, wait),
		RetryMax:   read(s, "retry_max", k.RetryMax, wait),
		QueueBytes: inRange(s, "queue_bytes", k.QueueBytes, queueMin, math.MaxInt32),
	}
	c.Log, _, _ = k.logger(s, os.Stderr)
	if k.MTU != 0 {
		inRange(s, "mtu", k.MTU, mtuMin, mtuMax)
	}
	if k.Mark == 0 {
		s.fail("mark", errors.New("0 marks nothing: use a number that no other program has"))
	}
	if k.Table >= 252 && k.Table <= 255 {
		s.fail("table", fmt.Errorf("%d belongs to the system: use one of 1 to 251 or 256 to 9999", k.Table))
	}
	if c.RetryMin > c.RetryMax {
		s.fail("retry_min", fmt.Errorf("%s is longer than retry_max, %s", c.RetryMin, c.RetryMax))
	}
	if k.Server != "" {
		c.Servers = readList(s, "server", strings.Split(k.Server, ","), func(text string) (string, error) {
			text = strings.TrimSpace(text)
			_, err := carrier.ParseDial(text, k.Port)
			return text, err
		})
	}
	c.Carriers = read(s, "carrier", k.Carrier, parseCarriers)
	c.Found = k.flags.Changed("carrier") || s.isSet("carrier") || !strings.Contains(k.Server, "://")
	if k.User && !k.flags.Changed("state") && !s.isSet("state") {
		k.State = ClientStateDir()
	}
	if s.err != nil {
		return c, s.err
	}
	return c, k.known(&c)
}

// Peek is Load for who changes nothing: a device without a key stays so.
func (k *Client) Peek() (client.Config, error) {
	k.peek = true
	return k.Load()
}

// known adds to c what this device knows of its gateway. A device that has joined one never goes back to
// the 2013 protocol by itself: only its owner's word for it counts.
func (k *Client) known(c *client.Config) error {
	pinned := c.Gateway != identity.Pin{}
	switch {
	case k.Plain && pinned:
		return &UsageError{errors.New("--plain and --gateway contradict each other: the 2013 protocol knows no keys")}
	case !k.Plain && !pinned:
		e, err := client.LoadEnrolment(k.State)
		switch {
		case errors.Is(err, fs.ErrNotExist) && client.HasKey(k.State):
			return errors.New("this device has a key and knows no gateway: 'vpncli join' with an invitation, --gateway with its fingerprint, or --plain for the 2013 protocol without keys")
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		c.Gateway, c.Next = e.Gateway, e.Next
		if c.Gateway != (identity.Pin{}) {
			c.Joined, c.Ways = client.EnrolmentFile(k.State), client.WaysFile(k.State)
		}
		if len(c.Servers) == 0 {
			c.Servers = e.Servers
		}
	}
	if len(c.Servers) == 0 {
		return &UsageError{errors.New("no gateway is named: vpncli -s 192.168.0.1 (or 'server' in the file of --config, or 'vpncli join' with an invitation)")}
	}
	if c.Gateway == (identity.Pin{}) {
		return nil
	}
	if k.peek && !client.HasKey(k.State) {
		return fmt.Errorf("this device has no key in %s: 'vpncli key' makes one, 'vpncli join' makes it known to a gateway", k.State)
	}
	var err error
	c.Key, err = client.DeviceKey(k.State)
	return err
}
