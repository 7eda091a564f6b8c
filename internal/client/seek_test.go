package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
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
	if s := (&client{servers: servers[1:], c: c.c}).search(learned); !slices.Equal(s.names, []carrier.Endpoint{learned}) {
		t.Errorf("%v are looked up, want the learned one", s.names)
	}
	for _, server := range []carrier.Endpoint{servers[0], servers[1], learned} {
		want := []carrier.Endpoint{servers[0]} // the host once
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

// A nowhere opener has no socket for anybody: no name can be looked up.
type nowhere struct{ carrier.Opener }

func (nowhere) Socket(string, string) (*os.File, error) { return nil, io.ErrUnexpectedEOF }

// A way that was never used is found where its host was seen, when nobody can tell where that is: also before the way out beside a full
// tunnel is closed.
func TestSeekWithoutNames(t *testing.T) {
	at := netip.MustParseAddr("192.0.2.1")
	udp, err := carrier.ParseDial("udp://gw.example:2002", 0)
	if err != nil {
		t.Fatal(err)
	}
	errName := &net.DNSError{Err: "no name server", IsTemporary: true}
	for name, tt := range map[string]struct{ known, full, there, want bool }{
		"it was never seen":                  {there: true},
		"where it was":                       {known: true, there: true, want: true},
		"it is there no more":                {known: true},
		"a full tunnel, it was never seen":   {full: true, there: true},
		"a full tunnel, where it was":        {known: true, full: true, there: true, want: true},
		"a full tunnel, it is there no more": {known: true, full: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{found: map[string][]netip.Addr{}}
			c.c.Policy.DefaultRoute = tt.full
			if tt.known { // by another carrier
				c.seen(carrier.Endpoint{Scheme: "tcp", Host: "gw.example"}, &net.TCPAddr{IP: at.AsSlice(), Port: 2002})
			}
			closed := false
			k := seeker{
				opener: nowhere{},
				reach: func(_ context.Context, e carrier.Endpoint, _ *keyring) (carrier.Link, error) {
					switch {
					case e.At == at && tt.there:
						return carrier.NewStream(nil), nil
					case e.At.IsValid():
						return nil, io.EOF
					}
					return nil, errName
				},
				close: func(found map[string][]netip.Addr) error {
					closed = true
					if !slices.Equal(found["gw.example"], []netip.Addr{at}) {
						t.Errorf("found %v", found)
					}
					return nil
				},
			}
			l, err := c.search(udp).find(t.Context(), k, nil)
			if got := l != nil && err == nil; got != tt.want {
				t.Errorf("reached %v, %v, want %v", got, err, tt.want)
			}
			if !tt.want && !errors.As(err, new(*net.DNSError)) {
				t.Errorf("got %v, which does not say that it is the name", err)
			}
			if closed != (tt.full && tt.known) {
				t.Errorf("the way out is closed: %v", closed)
			}
		})
	}
}

// Where a proxy is says nothing of the host behind it.
func TestSeenByProxy(t *testing.T) {
	c := &client{found: map[string][]netip.Addr{}}
	wss := carrier.Endpoint{Scheme: "wss", Host: "gw.example", Port: 443}
	t.Setenv("HTTPS_PROXY", "http://192.0.2.7:3128")
	if c.seen(wss, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 3128}); len(c.found) > 0 {
		t.Errorf("found %v", c.found)
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "")
	}
	for i := range byte(6) {
		c.seen(wss, &net.TCPAddr{IP: net.IPv4(192, 0, 2, i%5), Port: 443})
	}
	got := c.found["gw.example"]
	if len(got) != maxKnown || got[0] != netip.MustParseAddr("192.0.2.0") || got[1] != netip.MustParseAddr("192.0.2.4") {
		t.Errorf("found %v, want the last four, the last one first", got)
	}
}
