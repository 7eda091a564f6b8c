package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"ferry/internal/gateway/settings"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// mapsVariable is where Penguin has its fixed maps, too. The configuration wins.
const mapsVariable = "IGLOO_VPN_PORT_MAPS"

// Publishing has the keys of vpnsrv about services that clients announce.
type Publishing struct {
	Who    []string `toml:"publish"`
	Host   string   `toml:"publish_host"`
	Ports  string   `toml:"publish_ports"`
	Maps   string   `toml:"publish_maps"`
	Limit  int      `toml:"publish_limit"`
	Expand bool     `toml:"publish_expand"`
	Dir    string   `toml:"publish_dir"`
}

// bind sets the defaults, and adds the flags to fs.
func (p *Publishing) bind(fs *pflag.FlagSet) {
	p.Host, p.Ports, p.Limit = settings.DefaultPublishHost.String(), settings.DefaultPublishPorts.String(), proto.MaxServices
	fs.StringArrayVar(&p.Who, "publish", nil, "`client` whose services are published on ports of this host, as it announces them (vpncli --publish): the name of\na device, an address or network of the pool, or '*' for all; repeatable (default: nobody)")
	fs.StringVar(&p.Dir, "publish-dir", "", "`directory` for vpn_bridges.csv, endpoints.txt and endpoints.json, which say what is published where (default: none)")
}

// publishing reads what is published.
func (p *Publishing) publishing(s *source, c *settings.Config) {
	for _, text := range p.Who {
		read(s, "publish", text, func(text string) (struct{}, error) { return struct{}{}, c.Publish.Add(text) })
	}
	for _, n := range c.Publish.Nets {
		if !c.Pool.Overlaps(n) {
			s.fail("publish", fmt.Errorf("%s is not in the pool %s: nobody is there", n, c.Pool))
		}
	}
	maps := p.Maps
	if from := os.Getenv(mapsVariable); maps == "" && from != "" {
		maps = from
		if _, err := publish.ParseMaps(maps); err != nil {
			s.fail("publish_maps", fmt.Errorf("of the environment, %s: %w", mapsVariable, err))
		}
	}
	c.PublishMaps = read(s, "publish_maps", maps, publish.ParseMaps)
	c.PublishHost = read(s, "publish_host", p.Host, parseHost)
	c.PublishPorts = read(s, "publish_ports", p.Ports, publish.ParseRange)
	c.PublishLimit = inRange(s, "publish_limit", p.Limit, 1, proto.MaxServices)
	c.PublishExpand = p.Expand
	c.PublishDir = read(s, "publish_dir", p.Dir, optional(parseExistingDir))
}

// parseHost reads an address of this host, or 0.0.0.0 or :: for all of them.
func parseHost(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.IsMulticast() {
		return a, fmt.Errorf("%q is no address of this host: write 127.0.0.1 for programs here, or 0.0.0.0 for everybody", s)
	}
	return a.Unmap(), nil
}

func parseExistingDir(s string) (string, error) {
	info, err := os.Stat(s)
	switch {
	case errors.Is(err, os.ErrPermission): // after the rights are gone; it was there at the start
	case err != nil:
		return s, fmt.Errorf("make the directory first: %w", err)
	case !info.IsDir():
		return s, fmt.Errorf("%q is no directory", s)
	}
	return filepath.Abs(s)
}
