//go:build !minimal

package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"

	"ferry/internal/carrier"
	"ferry/internal/carrier/connectip"
	"ferry/internal/carrier/dns"
	"ferry/internal/carrier/icmp"
	"ferry/internal/carrier/quic"
	"ferry/internal/carrier/ssh"
	"ferry/internal/carrier/udp"
	"ferry/internal/carrier/ws"
	"ferry/internal/failover"
	"ferry/internal/hostdns"
	"ferry/internal/identity"
)

// Echo is how answers by icmp begin.
const Echo = icmp.Answer

// more are the carriers that a minimal build leaves out.
var more = map[string]kind{
	"ws":   {dial: stream(web), class: failover.ClassWeb, proxied: ws.Proxied},
	"wss":  {dial: stream(web), class: failover.ClassWeb, proxied: ws.Proxied},
	"ssh":  {dial: secureShell, class: failover.ClassSSH},
	"quic": {dial: handshaking(quic.Dial), class: failover.ClassDatagram},
	"udp":  {dial: handshaking(udp.Dial), class: failover.ClassDatagram},
	"icmp": {dial: handshaking(icmp.Dial), class: failover.ClassICMP, polling: true},

	"connect-ip":    {dial: handshaking(connectip.Dial), class: failover.ClassWeb},
	"connect-ip+h1": {dial: stream(connectip.DialStream), class: failover.ClassWeb, proxied: ws.Proxied},
	"dns":           {dial: names, class: failover.ClassDNS, polling: true, full: dns.Full},
}

// handshaking reaches a gateway by a carrier that makes the handshake itself.
func handshaking(dial func(context.Context, carrier.Endpoint, carrier.Opener, *tls.Config) (carrier.Link, error)) dialer {
	return func(ctx context.Context, e carrier.Endpoint, o carrier.Opener, keys *keyring) (carrier.Link, error) {
		l, err := dial(ctx, e, o, keys.config())
		if err != nil {
			return nil, notGateway(err)
		}
		return l, nil
	}
}

// secureShell dials a channel of SSH, which has a handshake of its own.
func secureShell(ctx context.Context, e carrier.Endpoint, o carrier.Opener, keys *keyring) (carrier.Link, error) {
	if keys.protocol != identity.Tunnel {
		return nil, errors.New("no device joins by ssh: take another carrier for that")
	}
	conn, err := ssh.Dial(ctx, e, o, keys.key, keys.verify)
	switch {
	case errors.Is(err, ssh.ErrLogin):
		return nil, errKey
	case err != nil:
		return nil, notGateway(err)
	}
	return carrier.NewStream(conn), nil
}

// names dials the zone of a gateway, by the resolvers of the network that the tunnel goes through.
func names(ctx context.Context, e carrier.Endpoint, o carrier.Opener, keys *keyring) (carrier.Link, error) {
	own := func() []netip.Addr { return hostdns.Below(keys.inside) }
	return handshaking(func(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
		return dns.Dial(ctx, e, o, c, own)
	})(ctx, e, o, keys)
}

// web dials a WebSocket, through the proxy that the environment names.
func web(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	return ws.Dial(ctx, e, o, ws.Options{})
}
