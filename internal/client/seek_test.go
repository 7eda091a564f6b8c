package client

import (
	"net/netip"
	"slices"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
)

// Before the way out beside a full tunnel is closed, the host of what is dialled is looked up, also where that was learned.
func TestLooksUpFirst(t *testing.T) {
	servers, err := endpoints([]string{"tcp://gw.example", "tcp://192.0.2.1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{servers: servers}
	c.c.Policy.DefaultRoute = true
	learned := on("gw.example", []string{"wss://:443"})[0]
	for _, server := range []carrier.Endpoint{servers[0], servers[1], learned} {
		want := []carrier.Endpoint{servers[0]}
		if server == learned {
			want = append(want, learned)
		}
		if s := c.search(server); !s.open || !slices.Equal(s.names, want) {
			t.Errorf("%s: %v are looked up, want %v", server, s.names, want)
		}
	}
}

// A way by DNS is told which name servers are those of the tunnel that is in place.
func TestInside(t *testing.T) {
	servers := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	c := &client{c: Config{Key: identity.NewKey()}, state: hostnet.State{DNS: servers}}
	if got := c.keys().inside; !slices.Equal(got, servers) {
		t.Errorf("got %v, want %v", got, servers)
	}
}
