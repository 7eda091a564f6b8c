// Command rawvpn puts many clients on a gateway, which send packets to each other and look whether all
// arrive, once, where they should. It prints what it saw as JSON, and ends with status 1 when there was
// something that must not be.
//
//	rawvpn -server 192.168.101.1:2002 -n 2000 -for 180s -rate 1 -churn 0.01
//
// With -hold the clients keep what they have got instead, come back when their connections end, and say at
// the end what became of their addresses.
//
//	rawvpn -server 192.168.101.1:2002 -n 5000 -hold -jitter 30s
//
// A line "joined N" tells that all are there.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ferry/test/rawvpn"
)

func main() {
	c := rawvpn.LoadConfig{}
	flag.StringVar(&c.Server, "server", "192.168.101.1:2002", "`host:port` of the gateway")
	flag.IntVar(&c.Clients, "n", 2000, "clients")
	flag.DurationVar(&c.For, "for", 3*time.Minute, "how long they send")
	flag.Float64Var(&c.Rate, "rate", 1, "packets per second of each client")
	flag.Float64Var(&c.Churn, "churn", 0, "part of the clients that leave and join again in a minute")
	flag.DurationVar(&c.Keepalive, "keepalive", 15*time.Second, "between the keepalives of a client")
	gateway := flag.String("gateway", "10.0.0.1", "address of the gateway inside the tunnel")
	loss := flag.Float64("loss", 0.1, "per cent that may be lost")
	hold := flag.Bool("hold", false, "send nothing but keepalives, and come back, until SIGTERM")
	jitter := flag.Duration("jitter", 30*time.Second, "with -hold: at most so long until a client comes back; at least 1s")
	flag.Parse()
	c.Joined = func() { fmt.Println("joined", c.Clients) }
	var err error
	if *hold {
		err = keep(c, *jitter)
	} else {
		err = run(c, *gateway, *loss)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rawvpn:", err)
		os.Exit(1)
	}
}

// keep holds clients until SIGTERM.
func keep(c rawvpn.LoadConfig, jitter time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	r, err := rawvpn.Hold(ctx, rawvpn.HoldConfig{
		Server: c.Server, Clients: c.Clients, Jitter: jitter, Keepalive: c.Keepalive, Joined: c.Joined,
	})
	if err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	if r.Moved > 0 || r.Doubles > 0 {
		return fmt.Errorf("%d have another address than before, %d that of another one", r.Moved, r.Doubles)
	}
	return nil
}

func run(c rawvpn.LoadConfig, gateway string, loss float64) error {
	var err error
	if c.Gateway, err = netip.ParseAddr(gateway); err != nil {
		return err
	}
	if c.Rate <= 0 || c.Clients <= 0 {
		return fmt.Errorf("-rate and -n must be positive")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	r, err := rawvpn.Load(ctx, c)
	if err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	if all := r.Violations(loss); len(all) > 0 {
		return fmt.Errorf("%s", strings.Join(all, ", "))
	}
	return nil
}
