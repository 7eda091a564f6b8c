package gateway

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/connectip"
	"ferry/internal/carrier/quic"
	"ferry/internal/carrier/udp"
	"ferry/internal/identity"
)

// Whatever they come by, clients of different hosts are different sources: what is bounded for one is not bounded for all of
// them together.
func TestSourceOfCarriers(t *testing.T) {
	key := identity.NewKey()
	keys := identity.NewKey().Client(identity.Tunnel, key.Public().Pin())
	plain := func(ctx context.Context, at string) { // ends with ctx
		if conn, err := net.Dial("tcp", at); err == nil {
			<-ctx.Done()
			_ = conn.Close()
		}
	}
	for scheme, come := range map[string]func(ctx context.Context, at string){
		"tcp": plain, "ssh": plain,
		"quic":       func(ctx context.Context, at string) { _, _ = quic.Dial(ctx, endpointAt(at), nil, keys) },
		"connect-ip": func(ctx context.Context, at string) { _, _ = connectip.Dial(ctx, endpointAt(at), nil, keys) },
		"udp":        func(ctx context.Context, at string) { _, _ = udp.Dial(ctx, endpointAt(at), nil, keys) },
	} {
		t.Run(scheme, func(t *testing.T) {
			in, err := ways[scheme].listen(t.Context(), carrier.Listening{Endpoint: carrier.Endpoint{Scheme: scheme, Host: "127.0.0.1"}}, newDoorkeeper(key))
			if err != nil {
				t.Fatal(err)
			}
			late := time.AfterFunc(20*time.Second, func() { _ = in.Close() }) // who waits for nobody fails
			defer late.Stop()
			var coming sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			coming.Go(func() { come(ctx, in.Addr().String()) })
			a, err := in.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got := (&listener{}).source(a).Unmap(); got != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("%s is of the source %s", a.RemoteAddr(), got)
			}
			cancel()
			_, _ = a.Close(), in.Close()
			coming.Wait()
		})
	}
}

func endpointAt(at string) carrier.Endpoint {
	a := netip.MustParseAddrPort(at)
	return carrier.Endpoint{Host: a.Addr().String(), Port: uint32(a.Port())}
}
