package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ferry/test/lab"
)

// carrierPorts are where the gateway of a road listens for each carrier.
var carrierPorts = map[string]int{"tcp": ferryPort, "udp": 2002, "quic": 2003, "wss": 443, "ssh": 2022}

// How the gateway is told to be a name server, and a device to ask it directly.
const (
	dnsZone   = "t.example"
	dnsListen = "dns://" + dnsZone
	dnsDial   = "dns://" + bareGateway + "/" + dnsZone
)

// hasDNS tells whether these programs have the carrier dns. There is no key, so it is refused anyway.
func (b *bench) hasDNS() bool {
	out, err := b.net.gw.Run(fmt.Sprintf("%s --check --config= --key= --listen %s", b.program("vpnsrv"), dnsListen))
	return err == nil || !strings.Contains(out, "unknown carrier")
}

// serverURLs are what vpncli is told for names of carriers with commas between them.
func serverURLs(ways string) string {
	var all []string
	for name := range strings.SplitSeq(ways, ",") {
		if name == "dns" {
			all = append(all, dnsDial)
			continue
		}
		all = append(all, fmt.Sprintf("%s://%s:%d", name, bareGateway, carrierPorts[name]))
	}
	return strings.Join(all, ",")
}

// serveRoad starts a gateway with all carriers, and lets c1 join it; connect starts the client.
func (b *bench) serveRoad(ways string) (*ferry, error) {
	f := &ferry{secure: true, verbose: b.logs != ""}
	for _, name := range []string{"tcp", "udp", "quic", "wss", "ssh"} {
		url := fmt.Sprintf("%s://:%d", name, carrierPorts[name])
		if name == "tcp" {
			url += "?allow=tls"
		}
		f.listen = append(f.listen, url)
	}
	if strings.Contains(ways, "dns") {
		f.listen = append(f.listen, dnsListen)
	}
	f.server = serverURLs(ways)
	if err := errors.Join(f.start(b, "public = ['tcp://"+bareGateway+"']\n"), f.join(b, b.net.c1)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// startRoaming starts Ferry on a road, and returns when it goes by the first of these ways, and one of another class stands by.
func (b *bench) startRoaming(ctx context.Context, ways string) (*contender, error) {
	f, err := b.serveRoad(ways)
	if err != nil {
		return nil, err
	}
	c := &contender{addr: ferryAddr, stop: f.Close, told: f.told, changes: f.changes}
	if err := f.run(b, b.net.c1); err != nil {
		f.Close()
		return nil, err
	}
	first, others, _ := strings.Cut(ways, ",")
	c.port = carrierPorts[first]
	c.way = func() string { way, _ := wayOf(b, b.net.c1); return way }
	for end := time.Now().Add(2 * patience); ; {
		way, standby := wayOf(b, b.net.c1)
		if strings.HasPrefix(way, first+"://") && (standby != "" || others == "") {
			return c, nil
		}
		if !sleep(ctx, 50*time.Millisecond) || time.Now().After(end) {
			f.Close()
			return nil, errors.Join(ctx.Err(), fmt.Errorf("ferry goes by %q, and %q stands by; want %s of %s:\n%s", way, standby, first, ways, f.told()))
		}
	}
}

// wayOf asks vpncli for the way that it uses, and the one that stands by.
func wayOf(b *bench, ns *lab.Namespace) (used, standby string) {
	out, err := ns.Run(b.program("vpncli") + " status --json")
	if err != nil {
		return "", ""
	}
	return waysIn(out)
}

func waysIn(status string) (used, standby string) {
	var s struct {
		Ways []struct{ Name, State string }
	}
	if json.Unmarshal([]byte(status), &s) != nil {
		return "", ""
	}
	for _, w := range s.Ways {
		switch w.State {
		case "in use":
			used = w.Name
		case "standby":
			standby = w.Name
		}
	}
	return used, standby
}

// A change is one from one way to another.
type change struct {
	at       time.Time
	way, why string
}

// changes are those that vpncli has told of.
func (f *ferry) changes() []change { return changesIn(f.clients[0].Output()) }

// changesIn finds them among what it prints.
func changesIn(out string) (all []change) {
	for text := range strings.Lines(out) {
		var e struct {
			Time               time.Time
			Event, Way, Reason string
		}
		if json.Unmarshal([]byte(text), &e) == nil && (e.Event == "switched" || e.Event == "connected") {
			all = append(all, change{e.Time, e.Way, e.Reason})
		}
	}
	return all
}

// told is all that the programs have printed.
func (f *ferry) told() string {
	all := "vpnsrv:\n" + f.srv.Output()
	for _, c := range f.clients {
		all += "\n\nvpncli:\n" + c.Output()
	}
	return all + "\n"
}
