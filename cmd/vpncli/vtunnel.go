//go:build !minimal

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ferry/internal/background"
	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/confine"
	"ferry/internal/vtunnel"
)

// vtunnelName is what the program of that name is called; a link of that name to vpncli is one.
const vtunnelName = "vtunnel"

// asVtunnel makes a call by the name of vtunnel one of the command.
func asVtunnel(args []string) []string {
	if len(args) > 0 && filepath.Base(args[0]) == vtunnelName {
		return append([]string{"vpncli", vtunnelName}, args[1:]...)
	}
	return args
}

// A vtunnelCall is a command line of vtunnel.
type vtunnelCall struct {
	cmd                       *cmdline.Command
	lines                     *vtunnel.Lines
	log                       *slog.Logger
	server, udp, background   bool
	localIP, dstIP            string
	localPort, dstPort        int
	cid                       int64
	name, auth, accept, where string
}

// The rules of this command are those of the original: what it says goes to stdout, a fault of the command line has status 1.
func vtunnelCommand() *cmdline.Command {
	c := &vtunnelCall{lines: &vtunnel.Lines{To: os.Stdout}}
	c.cmd = &cmdline.Command{
		Use:   "vtunnel",
		Short: "Tunnel a port between a virtual machine and its host, as vtunnel does",
		Long: `vtunnel takes connections, or datagrams, to a port of this machine through vsock to a port of the host
(in a guest), or of a guest (on a host). The other end is 'vpncli vtunnel -s', 'vpnsrv --vtunnel-listen' or the
original; flags, lines on stdout and what goes over the wire are those of vtunnel 0.6.0. A link to
vpncli that is called vtunnel is this command.`,
		Example: `  vpncli vtunnel -s
  vpncli vtunnel -d 22 -p 2222
  vpncli vtunnel -c 3 -u -d 53 -p 5353 -b
  vpncli vtunnel --socket unix:///run/vm.sock?vsock=6666 -d 80 -p 8080`,
		Args: func(_ *cmdline.Command, args []string) error {
			if len(args) > 0 {
				return c.fault(fmt.Errorf("unexpected argument %q", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cmdline.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.addFlags(c.cmd.Flags())
	cli.CompleteURL(c.cmd, "socket", "unix:///", "tcp://", "vsock://")
	c.cmd.SetFlagErrorFunc(func(cmd *cmdline.Command, err error) error {
		return c.fault(errors.Unwrap(config.FlagError(cmd.Flags(), err)))
	})
	return c.cmd
}

func (c *vtunnelCall) addFlags(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.BoolP("version", "V", false, "print version and exit")
	fs.BoolVarP(&c.lines.Verbose, "verbose", "v", false, "print verbose output")
	fs.BoolVarP(&c.server, "server", "s", false, "run in server mode")
	fs.BoolP("tcp", "t", false, "tunnel will be TCP (default)")
	fs.BoolVarP(&c.udp, "udp", "u", false, "tunnel will be UDP")
	fs.BoolVarP(&c.background, "background", "b", false, "daemonize and return bound port")
	fs.StringVarP(&c.localIP, "local-ip", "l", "127.0.0.1", "local bind `address` for the tunnel")
	fs.IntVarP(&c.localPort, "local-port", "p", 0, "local bind `port` for the tunnel, or the next one that is free (default: --dst-port)")
	fs.StringVarP(&c.name, "name", "n", "", "`name` of destination machine (not on Linux: --cid)")
	fs.Int64VarP(&c.cid, "cid", "c", 0, "`cid` of destination machine, on a host")
	fs.StringVarP(&c.dstIP, "dst-ip", "r", "127.0.0.1", "tunnel destination `address`, as the server sees it")
	fs.IntVarP(&c.dstPort, "dst-port", "d", 0, "tunnel destination `port` (default: --local-port)")
	fs.StringVarP(&c.auth, "auth", "a", vtunnel.DefaultAuth, "authentication `string`; 31 bytes of it count")
	fs.StringVarP(&c.accept, "accept", "A", "", "acceptable destinations, a `CIDR`, in server mode (default: all)")
	fs.StringVar(&c.where, "socket", "", "`URL` of the server, or to listen on in server mode, instead of vsock port 6666: unix:///path, unix:///path?vsock=6666,\ntcp://host:port or vsock://cid:port; not of the original")
}

// fault tells a fault of the command line.
func (c *vtunnelCall) fault(err error) error {
	c.lines.Say("%s", err)
	return errors.Join(err, c.cmd.Help())
}

// failed tells any other fault.
func (c *vtunnelCall) failed(err error) error {
	c.lines.Say("%s", err)
	return err
}

func (c *vtunnelCall) run(ctx context.Context) error {
	if asked, _ := c.cmd.Flags().GetBool("version"); asked {
		c.lines.Say("version %s", vtunnel.Version)
		return nil
	}
	level := slog.LevelWarn
	if c.lines.Verbose {
		level = slog.LevelDebug
	}
	c.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	signal.Ignore(syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGQUIT)
	defer stop()
	if err := vtunnel.CheckAuth(c.auth); err != nil {
		return c.fault(fmt.Errorf("-a: %w", err))
	}
	work := c.client
	if c.server {
		work = c.serve
	}
	switch {
	case !c.background:
	case c.lines.Verbose:
		c.lines.Say("does not daemonize when verbose")
		c.background = false
	case !background.IsChild():
		status, err := background.Start()
		if status != 0 {
			os.Exit(status) // the child has said why
		}
		return err
	}
	return work(ctx)
}

// serve is the server mode. Unlike vpnsrv it takes its clients everywhere unless it is told otherwise, as the original does.
func (c *vtunnelCall) serve(ctx context.Context) error {
	fs := c.cmd.Flags()
	for _, name := range []string{"tcp", "udp", "local-ip", "local-port", "dst-ip", "dst-port", "name", "cid"} {
		if fs.Changed(name) {
			return c.fault(errors.New("invalid option set for server mode"))
		}
	}
	accept := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if c.accept != "" {
		var err error
		if accept, err = vtunnel.ParseAccept(c.accept); err != nil {
			return c.fault(fmt.Errorf("invalid address for accept: %w", err))
		}
	}
	url, name := c.where, c.where
	if url == "" {
		m, err := vtunnel.ThisMachine()
		if err != nil {
			return c.failed(err)
		}
		url, name = fmt.Sprintf("vsock://:%d", vtunnel.DefaultPort), fmt.Sprintf("vsock %d:%d", m.CID, vtunnel.DefaultPort)
	}
	at, err := vtunnel.ParseListen(url)
	if err != nil {
		return c.fault(err)
	}
	l, err := at.Listen(ctx)
	if err != nil {
		return c.failed(err)
	}
	c.lines.Say("listening on %s", name)
	background.Detach()
	if err := c.confine(); err != nil {
		return c.failed(err)
	}
	s := vtunnel.NewServer(vtunnel.ServerConfig{Auth: c.auth, Accept: []netip.Prefix{accept}, Admit: at.Admit, Log: c.log, Lines: c.lines})
	return s.Serve(ctx, l)
}

// confine gives up all that is not needed to connect to destinations: strangers speak with this process.
func (c *vtunnelCall) confine() error {
	rights, err := cli.NewRights(config.Process{}, confine.Rules{Families: []int{unix.AF_INET}, Connect: true}, c.log)
	if err != nil {
		return err
	}
	return rights.Confine(nil)
}

// client is the other mode.
func (c *vtunnelCall) client(ctx context.Context) error {
	to, local, port, err := c.settings()
	if err != nil {
		return c.fault(err)
	}
	client := vtunnel.NewClient(to)
	if c.udp {
		socket, err := vtunnel.ListenUDP(local, port)
		if err != nil {
			return c.failed(err)
		}
		c.sayListening(socket.LocalAddr())
		return client.ServeUDP(ctx, socket)
	}
	l, err := vtunnel.ListenTCP(local, port)
	if err != nil {
		return c.failed(err)
	}
	c.sayListening(l.Addr())
	return client.ServeTCP(ctx, l)
}

// sayListening prints the line from which scripts know the port. It says tcp of UDP, too, as the original's.
func (c *vtunnelCall) sayListening(at net.Addr) {
	c.lines.Say("pid %d listening on tcp %s", os.Getpid(), at)
	background.Detach()
}

// settings reads the flags of a client.
func (c *vtunnelCall) settings() (to vtunnel.ClientConfig, local netip.Addr, port uint16, err error) {
	fs := c.cmd.Flags()
	if fs.Changed("accept") {
		return to, local, port, errors.New("invalid option set for client mode")
	}
	from, dst := cmp.Or(c.localPort, c.dstPort), cmp.Or(c.dstPort, c.localPort)
	switch {
	case from == 0:
		return to, local, port, errors.New("neither local nor destination port set")
	case from < 0 || from > 0xffff || dst < 0 || dst > 0xffff:
		return to, local, port, errors.New("a port is a number from 1 to 65535")
	}
	if local, err = netip.ParseAddr(c.localIP); err != nil || !local.Is4() {
		return to, local, port, fmt.Errorf("-l: %q is no IPv4 address", c.localIP)
	}
	if c.dstIP == "" || strings.ContainsFunc(c.dstIP, unicode.IsSpace) {
		return to, local, port, fmt.Errorf("-r: %q is no IPv4 address", c.dstIP)
	}
	server, err := c.destination()
	if err != nil {
		return to, local, port, err
	}
	return vtunnel.ClientConfig{
		Dial: func(ctx context.Context) (net.Conn, error) { return vtunnel.Dial(ctx, server) },
		Auth: c.auth, Addr: c.dstIP, Port: uint16(dst), Log: c.log, Lines: c.lines,
	}, local, uint16(from), nil
}

// destination returns where the server is.
func (c *vtunnelCall) destination() (carrier.Endpoint, error) {
	if c.where != "" {
		return vtunnel.ParseDial(c.where)
	}
	if c.name != "" && !c.cmd.Flags().Changed("cid") {
		return carrier.Endpoint{}, errors.New("only esx hosts are processed right now: on this one name the machine by its context ID, -c")
	}
	m, err := vtunnel.ThisMachine()
	if err != nil {
		return carrier.Endpoint{}, err
	}
	var cid *uint32
	if c.cmd.Flags().Changed("cid") {
		cid = new(uint32(c.cid)) // VMCI has negative ones
	}
	return m.Server(cid)
}
