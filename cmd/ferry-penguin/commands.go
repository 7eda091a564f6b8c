package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"ferry/internal/background"
	"ferry/internal/cmdline"
	"ferry/internal/penguin"
)

func guestCommand() *cmdline.Command {
	var g penguin.GuestConfig
	var owned []string
	var wan struct{ name, host, guest, prefix string }
	c := newCall("guest", "Serve the host, in the emulated machine", func(ctx context.Context) error {
		g.Log = newLog()
		if len(owned) == 0 && wan.name != "" {
			o, err := penguin.NewOwned(wan.name, wan.host, wan.guest, wan.prefix)
			if err != nil {
				return err
			}
			g.Owned = append(g.Owned, o)
		}
		for _, text := range owned {
			o, err := penguin.ParseOwned(text)
			if err != nil {
				g.Log.Error("own-iface", "err", err) // and the others are made
				continue
			}
			g.Owned = append(g.Owned, o)
		}
		if err := absolute(&g.Socket); err != nil {
			return err
		}
		return penguin.RunGuest(ctx, g, background.Detach)
	})
	fs := c.cmd.Flags()
	fs.Uint32VarP(&g.CID, "context-id", "c", 3, "`CID` of this machine")
	fs.Uint32VarP(&g.Port, "command-port", "p", penguin.DefaultPort, "vsock `port` of requests; raw packets come by the next one, raw frames by that behind it")
	fs.StringArrayVar(&owned, "own-iface", nil, "make an interface with a host behind it, `NAME:HOST_IP/GUEST_IP/PREFIX` (default of what is missing: 203.0.113.1, 203.0.113.2, 24); may be repeated")
	fs.StringVar(&wan.name, "wan-iface", "", "`name` of an interface, where there is no --own-iface; out of use")
	fs.StringVar(&wan.host, "wan-host-ip", "203.0.113.1", "`address` of the host behind it")
	fs.StringVar(&wan.guest, "wan-guest-ip", "203.0.113.2", "`address` of the interface")
	fs.StringVar(&wan.prefix, "wan-prefix", "24", "`length` of the prefix of both")
	fs.StringVar(&g.Socket, "socket", "", "listen on unix sockets PATH_port in the place of vsock, as hypervisors have them: `PATH`; not of the original")
	return c.cmd
}

func hostCommand() *cmdline.Command {
	var h penguin.HostConfig
	c := newCall("host", "Publish services of the emulated machine", func(ctx context.Context) error {
		h.Log = newLog()
		if err := absolute(&h.Events, &h.Dir, &h.Capture, &h.Guest.Path); err != nil {
			return err
		}
		return penguin.RunHost(ctx, h, background.Detach)
	})
	addTransport(c.cmd, &h.Guest)
	fs := c.cmd.Flags()
	fs.StringVarP(&h.Events, "event-path", "e", "/tmp/guest_network_events", "`file` whose lines say what is published: proto,guest_ip:port,ext_ip:port[,src_ip:port[,iface]]")
	fs.StringVarP(&h.Dir, "outdir", "o", "", "`directory` for logs of what passes by TCP")
	fs.StringVarP(&h.Capture, "pcap-path", "l", "", "pcap `file` of what passes")
	return c.cmd
}

func addTransport(cmd *cmdline.Command, t *penguin.Transport) {
	fs := cmd.Flags()
	fs.Uint32VarP(&t.CID, "context-id", "c", 3, "`CID` of the guest")
	fs.Uint32VarP(&t.Port, "command-port", "p", penguin.DefaultPort, "vsock `port` of requests in the guest")
	fs.StringVarP(&t.Path, "vhost-user-path", "u", "", "`path` of the unix socket of vhost-device-vsock, Firecracker or Cloud Hypervisor; without it the kernel's vsock is used")
}

// absolute makes paths whole: in the background there is another directory.
func absolute(paths ...*string) error {
	for _, p := range paths {
		if *p == "" {
			continue
		}
		whole, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = whole
	}
	return nil
}

func probeCommand() *cmdline.Command {
	var t penguin.Transport
	var ports, iface string
	var timeout uint
	c := newCall("wan-probe", "Say what the guest's firewall does with ports", func(ctx context.Context) error {
		all, err := penguin.ParsePorts(ports)
		switch {
		case err != nil:
			return err
		case len(all) == 0:
			return errors.New("name ports, as --ports 80,443")
		}
		return penguin.Probe(ctx, os.Stdout, t, iface, all, time.Duration(timeout)*time.Second)
	})
	addTransport(c.cmd, &t)
	c.cmd.Flags().StringVar(&ports, "ports", "", "`ports` of TCP, with commas between")
	c.cmd.Flags().StringVar(&iface, "iface", "wan0", "`name` of the guest's interface")
	c.cmd.Flags().UintVar(&timeout, "timeout", 12, "`seconds` for each port")
	return c.cmd
}

func rawCommand() *cmdline.Command {
	var t penguin.Transport
	var r penguin.RawConfig
	var src, dst, packet string
	var timeout uint
	c := newCall("raw", "Send pings, or a packet, through an interface of the guest", func(ctx context.Context) (err error) {
		if r.Src, err = parseIPv4("--src-ip", src); err != nil {
			return err
		}
		if r.Dst, err = parseIPv4("--dst-ip", dst); err != nil {
			return err
		}
		if packet != "" {
			if r.Packet, err = penguin.ParsePacket(packet); err != nil {
				return err
			}
		}
		r.Timeout = time.Duration(timeout) * time.Second
		return penguin.Raw(ctx, os.Stdout, t, r)
	})
	addTransport(c.cmd, &t)
	fs := c.cmd.Flags()
	fs.StringVar(&r.Iface, "iface", "wan0", "`name` of the guest's interface")
	fs.Uint8Var(&r.Protocol, "proto", 1, "IP `protocol` of what is listened for")
	fs.StringVar(&src, "src-ip", "203.0.113.1", "`address` from which pings come")
	fs.StringVar(&dst, "dst-ip", "203.0.113.2", "`address` that is pinged")
	fs.IntVar(&r.Count, "count", 3, "`number` of pings")
	fs.StringVar(&packet, "packet", "", "an IPv4 packet in `hex` in their place")
	fs.UintVar(&timeout, "timeout", 5, "`seconds` for the next reply")
	return c.cmd
}

func parseIPv4(flag, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return a, fmt.Errorf("%s: %q is no IPv4 address", flag, text)
	}
	return a, nil
}

func attachCommand() *cmdline.Command {
	var t penguin.Transport
	var iface, name string
	c := newCall("raw-attach", "Put an interface of this host on the wire of one of the guest", func(ctx context.Context) error {
		return penguin.Attach(ctx, os.Stdout, t, iface, name)
	})
	addTransport(c.cmd, &t)
	c.cmd.Flags().StringVar(&iface, "iface", "wan0", "`name` of the guest's interface")
	c.cmd.Flags().StringVar(&name, "tap", "vpnguin0", "`name` of the host's")
	return c.cmd
}
