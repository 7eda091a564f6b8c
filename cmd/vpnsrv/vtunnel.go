package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ferry/internal/vtunnel"
)

// A tunnelListener is where clients of vtunnel come in, beside the gateway.
type tunnelListener struct {
	net.Listener
	at vtunnel.Listening
}

// listenTunnels opens the listeners that URLs name, all or none: the rights for it go when the gateway is confined.
func listenTunnels(ctx context.Context, urls []string, log *slog.Logger) (all []tunnelListener, err error) {
	defer func() {
		if err != nil {
			closeTunnels(all)
		}
	}()
	for _, url := range urls {
		at, err := vtunnel.ParseListen(url)
		if err != nil {
			return all, err
		}
		l, err := at.Listen(ctx)
		if err != nil {
			return all, fmt.Errorf("vtunnel: %w", err)
		}
		all = append(all, tunnelListener{l, at})
		if at.Auth == "" {
			log.Warn("vtunnel: whoever reaches the listener may come in, for everybody knows the auth string; auth= in its URL is another", "on", at)
		}
	}
	return all, nil
}

func closeTunnels(all []tunnelListener) {
	for _, l := range all {
		_ = l.Close()
	}
}

// serveTunnels serves clients of vtunnel from when the rights are gone until ctx is done, and counts them. It closes the listeners.
func serveTunnels(ctx context.Context, all []tunnelListener, confined <-chan struct{}, count *vtunnel.Counters, log *slog.Logger) error {
	defer closeTunnels(all)
	select {
	case <-confined:
	case <-ctx.Done():
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range all {
		s := vtunnel.NewServer(vtunnel.ServerConfig{Auth: l.at.Auth, Accept: l.at.Accept, Admit: l.at.Admit, Count: count, Log: log})
		log.Info("listening for clients of vtunnel", "on", l.at)
		group.Go(func() error { return s.Serve(ctx, l) })
	}
	return group.Wait()
}

// tunnelSockets returns the paths of the unix sockets among listeners.
func tunnelSockets(urls []string) (paths []string) {
	for _, url := range urls {
		if at, err := vtunnel.ParseListen(url); err == nil && at.Path() != "" {
			if path, err := filepath.Abs(at.Path()); err == nil {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// tunnelFamilies are those of the sockets by which destinations are reached.
func tunnelFamilies(urls []string) []int {
	if len(urls) == 0 {
		return nil
	}
	return []int{unix.AF_INET}
}
