package gateway

import (
	"context"
	"fmt"
	"net"

	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
)

// carriers are the ways by which clients can come, by the scheme of a URL. A new one is added here.
var carriers = map[string]func(context.Context, carrier.Endpoint) (net.Listener, error){
	"tcp":   tcp.Listen,
	"vsock": vsock.Listen,
	"unix":  unix.Listen,
}

// listenAll opens the listeners that c names, all or none. Without names it serves TCP and, where the
// machine has it, vsock, which it can do without: vsock knows no network namespaces, so another gateway
// of the machine may have the port.
func listenAll(ctx context.Context, c *Config) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	urls := c.Listen
	if len(urls) == 0 {
		urls = []string{fmt.Sprintf("tcp://:%d", DefaultPort)}
	}
	for _, url := range urls {
		l, err := listen(ctx, url)
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	if len(c.Listen) == 0 && vsock.Available() {
		l, err := listen(ctx, fmt.Sprintf("vsock://:%d", DefaultPort))
		if err != nil {
			c.Log.Warn("no clients by vsock", "err", err)
			return all, nil
		}
		all = append(all, l)
	}
	return all, nil
}

func listen(ctx context.Context, url string) (net.Listener, error) {
	e, err := carrier.ParseListen(url)
	if err != nil {
		return nil, err
	}
	return carriers[e.Scheme](ctx, e)
}
