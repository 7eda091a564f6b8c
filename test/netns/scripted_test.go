package netns

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/identity"
	"ferry/internal/proto"
	"ferry/test/rawvpn"
)

// A strangerRow is somebody who is not to be let in.
type strangerRow struct {
	name string
	// shows changes what a known device would show.
	shows func(c *credentials)
	// bySSH tells that SSH knows such a one: it has keys, and no certificates.
	bySSH bool
	// want is the error of the client; nil: any, or the end of the connection without a byte.
	want error
}

// TestStrangersByEachCarrier is exam A1 to A3, A6 and C6 for each carrier: a gateway that listens on all of them lets nobody in whose key it does
// not know, tells nobody anything, and gives nobody what is another's.
// exam: A1, A2, A3, A6, C6, P4
func TestStrangersByEachCarrier(t *testing.T) {
	t.Parallel()
	n, all := newManyWays(t, crowd+"penalty = '10ms'\npenalty_max = '10ms'")
	victim := n.addDevice("victim", "--ip 10.0.3.1")
	known, off := n.addDevice("known", "--ip 10.0.3.2"), n.addDevice("off", "--ip 10.0.3.3")
	n.vpnsrv("peer disable off")
	pin, stranger := n.pin(), identity.NewKey()
	rows := []strangerRow{
		{"a key that nobody knows", func(c *credentials) { *c = showing(stranger, identity.Tunnel, pin) }, true, nil},
		{"a key that is disabled", func(c *credentials) { *c = showing(off, identity.Tunnel, pin) }, true, nil},
		{"another gateway is expected", func(c *credentials) { *c = showing(known, identity.Tunnel, stranger.Public().Pin()) }, true, identity.ErrWrongKey},
		{"no key", func(c *credentials) { c.config.Certificates = nil }, false, nil},
		{"a known key that is not its own", func(c *credentials) { c.config.Certificates[0].PrivateKey = stranger.Signer() }, false, nil},
		{"a stranger's key behind which the known one comes", func(c *credentials) {
			own := stranger.Client(identity.Tunnel, pin).Certificates[0]
			own.Certificate = append(own.Certificate, c.config.Certificates[0].Certificate[0])
			c.config.Certificates[0] = own
		}, false, nil},
		{"a chain of more than 256 KiB", func(c *credentials) {
			one := c.config.Certificates[0].Certificate
			for size := 0; size < 300<<10; size += len(one[0]) {
				c.config.Certificates[0].Certificate = append(c.config.Certificates[0].Certificate, one[0])
			}
		}, false, nil},
		{"TLS 1.2", func(c *credentials) { c.config.MinVersion, c.config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, false, nil},
		{"another protocol", func(c *credentials) { c.config.NextProtos = []string{"h2"} }, false, nil},
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			before := n.status().Closed
			for _, row := range rows {
				if c.name == "ssh" && !row.bySSH {
					continue
				}
				shown := showing(known, identity.Tunnel, pin)
				row.shows(&shown)
				refusedBy(t, n, c, row, shown)
			}
			if c.name != "ssh" { // by which nobody joins
				guessBy(t, n, c, showing(stranger, identity.Join, pin))
			}
			if c.bytes != nil {
				plainBy(t, n, c)
			}
			n.ownBy(t, c, showing(known, identity.Tunnel, pin), "10.0.3.2", "10.0.3.1", "10.0.3.3", "10.0.9.9", gatewayVPN)
			until(t, patience, "all have gone, each for its own cause", func() bool {
				now := n.status()
				return now.Sessions == 0 && now.Closed["key_unknown"] > before["key_unknown"] && now.Closed["key_disabled"] == before["key_disabled"]+1 &&
					(c.name == "ssh" || now.Closed["handshake"] >= before["handshake"]+5)
			})
		})
	}
	n.aliveSecure(victim)
	if mapsEverybody() { // in a user namespace there is no other user to become
		noRights(t, n.srv)
	}
}

// refusedBy checks that a stranger is not let in, and is told nothing.
func refusedBy(t *testing.T, n *network, c scriptedCarrier, row strangerRow, shown credentials) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rawvpn.DefaultTimeout)
	defer cancel()
	began := time.Now()
	conn, err := c.connect(ctx, c.endpoint(t), n.c1, shown)
	var got []byte
	if err == nil { // a client knows that it was refused by the first read
		_, _ = conn.Write(rawvpn.Ask{Features: rawvpn.All}.Bytes())
		_ = conn.SetReadDeadline(time.Now().Add(rawvpn.DefaultTimeout))
		got, err = io.ReadAll(conn)
		_ = conn.Close()
	}
	switch {
	case len(got) > 0:
		t.Errorf("%s: was told %x", row.name, got)
	case isTimeout(err):
		t.Errorf("%s: was not refused within %s: %v", row.name, time.Since(began), err)
	case row.want != nil && !errors.Is(err, row.want):
		t.Errorf("%s: got %v, want %v", row.name, err, row.want)
	}
}

// guessBy shows a secret that opens nothing.
func guessBy(t *testing.T, n *network, c scriptedCarrier, shown credentials) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rawvpn.DefaultTimeout)
	defer cancel()
	conn, err := c.connect(ctx, c.endpoint(t), n.c1, shown)
	if err != nil {
		t.Errorf("a guess: %v", err)
		return
	}
	defer conn.Close()
	r := rawvpn.New(conn)
	item := rawvpn.Item{}
	if err = r.SendRaw(proto.AppendJoin(nil, identity.NewSecret())); err == nil {
		item, err = r.ReadItem()
	}
	var g proto.GoodbyeMessage
	if err == nil && item.Kind == rawvpn.KindGoodbye {
		g, err = proto.ParseGoodbye(item.Raw)
	}
	if err != nil || g.Reason != proto.ReasonInvitation {
		t.Errorf("a guess: got %x, %v, want that the invitation is unknown", item.Raw, err)
	}
}

// plainBy speaks the 2013 protocol where a handshake is wanted.
func plainBy(t *testing.T, n *network, c scriptedCarrier) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rawvpn.DefaultTimeout)
	defer cancel()
	conn, err := c.bytes(ctx, c.endpoint(t), socketsOf{n.c1})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(rawvpn.Ask{}.Bytes()); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(rawvpn.DefaultTimeout))
	if got, err := io.ReadAll(conn); len(got) > 0 && !bytes.HasPrefix(got, []byte{21, 3}) || isTimeout(err) {
		t.Errorf("without a handshake: got %x, %v", got, err)
	}
}

// ownBy lets a device in, which asks for addresses of others in vain.
func (n *network) ownBy(t *testing.T, c scriptedCarrier, shown credentials, own string, others ...string) {
	t.Helper()
	for _, addr := range others {
		r, err := n.joinBy(&c, shown, rawvpn.Ask{Static: netip.MustParseAddr(addr), Features: rawvpn.All})
		if r != nil {
			_ = r.Close()
		}
		if refused := new(rawvpn.RefusedError); !errors.As(err, &refused) {
			t.Errorf("asked for %s, which is not its own: %v", addr, err)
		}
	}
	r, err := n.joinBy(&c, shown, rawvpn.Ask{Features: rawvpn.All})
	if err != nil {
		t.Fatalf("a device with a key: %v", err)
	}
	if r.Lease.Addr.String() != own {
		t.Errorf("has %s, want %s", r.Lease.Addr, own)
	}
	_ = r.Close()
}
