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

// defaultListen is what a gateway without --listen serves.
func defaultListen() []string {
	urls := []string{fmt.Sprintf("tcp://:%d", DefaultPort)}
	if vsock.Available() {
		urls = append(urls, fmt.Sprintf("vsock://:%d", DefaultPort))
	}
	return urls
}

// listen opens all listeners or none.
func listen(ctx context.Context, urls []string) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
		}
	}()
	for _, s := range urls {
		e, err := carrier.ParseListen(s)
		if err != nil {
			return all, err
		}
		l, err := carriers[e.Scheme](ctx, e)
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	return all, nil
}
