//go:build !minimal

package client

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/forward"
	"ferry/internal/hostnet"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// noRelays is a host whose services are reached as they are.
type noRelays struct{}

func (noRelays) Networks(string) (local, remote forward.Network) { return nil, nil }
func (noRelays) HasAddress() bool                                { return true }
func (noRelays) Names(inodes []uint32) (map[uint32]string, error) {
	all := map[uint32]string{}
	for _, i := range inodes {
		all[i] = fmt.Sprintf("program%d", i)
	}
	return all, nil
}

// takes answers as a gateway that has features, writes down what it is told of services, and ends the connection after d.
func takes(features proto.Features, d time.Duration, told *[]string) server {
	return func(conn net.Conn, ask []byte) {
		_ = conn.SetDeadline(time.Now().Add(d))
		offered := proto.ParseRequest(ask).Features
		_, _ = conn.Write(proto.AppendReply(nil, ask[:20], proto.Reply{Addr: netip.MustParseAddr("10.0.9.9"), Extended: true, Features: features & offered}))
		f := proto.Framer{Extended: true}
		var got []byte
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			got = append(got, buf[:n]...)
			for {
				kind, n, _ := f.Next(got)
				if n == 0 {
					break
				}
				switch kind {
				case proto.KindPing:
					_, _ = conn.Write(proto.AppendPong(nil, got[:n]))
				case proto.KindPublish:
					m, err := proto.ParsePublish(got[:n])
					text := fmt.Sprintf("%d:", m.Serial)
					for _, s := range m.Services {
						text += fmt.Sprintf(" %s %s at %d %s", s.Protocol(), netip.AddrPortFrom(s.Addr, s.Port), s.At, s.Name)
					}
					if *told = append(*told, text); err != nil {
						*told = append(*told, err.Error())
					}
				}
				got = got[n:]
			}
		}
	}
}

// published runs a device with a web server from 10 s to 40 s, an ssh server all the time, and a name server for itself, for a minute.
func published(t *testing.T, what string, servers ...server) {
	t.Helper()
	w, err := publish.ParseWhat(what)
	if err != nil {
		t.Fatal(err)
	}
	var start time.Time
	dev := newDevice()
	list := func() ([]publish.Socket, error) {
		if start.IsZero() {
			start = time.Now()
		}
		all := []publish.Socket{
			{Addr: netip.IPv6Unspecified(), Port: 22, Inode: 1}, {UDP: true, Addr: netip.MustParseAddr("127.0.0.53"), Port: 53, Inode: 2},
			{UDP: true, Addr: netip.IPv4Unspecified(), Port: 40000, Inode: 3},
		}
		if at := time.Since(start); at >= 10*time.Second && at < 40*time.Second {
			all = append(all, publish.Socket{Addr: netip.IPv4Unspecified(), Port: 80, Inode: 4}, publish.Socket{Addr: netip.IPv6Unspecified(), Port: 80, Only6: true, Inode: 5})
		}
		return all, nil
	}
	var a *announcer
	dev.services = func(c *Config) *announcer {
		a = &announcer{c: c, list: list, host: noRelays{}, close: func() error { return nil }, ephemeral: publish.Range{First: 32768, Last: 60999}}
		return a
	}
	_, err = worldOf(t, dev, Config{Publish: w, PublishDebounce: 2 * time.Second}, time.Minute, servers...)
	if err != nil {
		t.Error(err)
	}
	var status Status
	if a.show(&status); status.Unpublished["relay"] > 0 { // for [::]:80, which 0.0.0.0:80 stands for
		t.Errorf("a relay was needed: %v", status.Unpublished)
	}
}

func TestPublish(t *testing.T) {
	const all = proto.FeaturePing | proto.FeaturePublish
	var first, second []string
	published(t, "auto,names", takes(all, 20*time.Second, &first), takes(all, time.Hour, &second))
	ssh := "tcp [::]:22 at 22 program1"
	web := ssh + " tcp 0.0.0.0:80 at 80 program4"
	if want := []string{"1: " + ssh, "2: " + web}; !slices.Equal(first, want) {
		t.Errorf("got %q, want %q", first, want)
	}
	if want := []string{"2: " + web, "3: " + ssh}; !slices.Equal(second, want) { // told anew, and then that the web server is gone
		t.Errorf("by the next connection: got %q, want %q", second, want)
	}
}

// A gateway that publishes nothing hears nothing, and a device that publishes nothing does not offer to.
func TestPublishNothing(t *testing.T) {
	var told []string
	published(t, "auto", takes(proto.FeaturePing, time.Hour, &told))
	if len(told) > 0 {
		t.Errorf("a gateway that takes none was told %q", told)
	}
	offered := proto.Features(0)
	_, _, _ = world(t, Config{}, time.Minute, func(conn net.Conn, ask []byte) {
		offered = proto.ParseRequest(ask).Features
		assign("10.0.9.9", echo)(conn, ask)
	})
	if offered.Has(proto.FeaturePublish) {
		t.Error("offered though nothing is published")
	}
}

func TestPublishLoopback(t *testing.T) {
	var told []string
	published(t, "auto,-tcp:22,-tcp:80", takes(proto.FeaturePublish, time.Hour, &told))
	if got := strings.Join(told, "\n"); got != "1:" {
		t.Errorf("got %q, want a list of nothing", got)
	}
}

// A kernel that tells of TCP alone: that is published.
func TestPublishInPart(t *testing.T) {
	c := Config{Publish: publish.What{Auto: true}, PublishLimit: 9}
	c.setDefaults()
	a := &announcer{c: &c, host: noRelays{}}
	a.debounce.Limit = 9
	a.list = func() ([]publish.Socket, error) {
		return []publish.Socket{{Addr: netip.IPv4Unspecified(), Port: 80, Inode: 4}}, fmt.Errorf("list: %w", hostnet.ErrNoDiag)
	}
	if !a.look(time.Now(), netip.MustParseAddr("10.0.9.9")) || len(a.shown) != 1 || a.fault == "" {
		t.Errorf("announced %v, and complained %q, want one and a complaint", a.shown, a.fault)
	}
}

// Relays that can not be opened are tried all the time, and told and counted once each.
func TestPublishRelaysFail(t *testing.T) {
	var log bytes.Buffer
	c := Config{Publish: publish.What{Auto: true, Loopback: true}, PublishLimit: 9, Log: slog.New(slog.NewTextHandler(&log, nil))}
	c.setDefaults()
	a := &announcer{c: &c, host: noRelays{}, debounce: publish.Debounce{Limit: 9}, relayed: map[publish.Socket]relay{}}
	a.relays = forward.NewTable(t.Context(), forward.Config{})
	defer a.relays.Close()
	home := netip.MustParseAddr("127.0.0.1")
	a.list = func() ([]publish.Socket, error) {
		return []publish.Socket{{Addr: home, Port: 80, Inode: 1}, {Addr: home, Port: 81, Inode: 2}}, nil
	}
	for range 10 {
		a.look(time.Now(), netip.MustParseAddr("203.0.113.9")) // not of this host
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || a.failed != 2 || len(a.shown) != 0 {
		t.Errorf("%d lines, %d failed, %v announced, want 2, 2, none: %.300s", n, a.failed, a.shown, log.String())
	}
}
