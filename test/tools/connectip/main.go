// Command connectip is a VPN client made of connect-ip-go and a TUN, with nothing of Ferry in it: what any program does that comes
// to a gateway by RFC 9484.
//
//	connectip -url 'https://gateway.example/.well-known/masque/ip/*/*/' -cert device.pem -pin SHA256:...
//
// device.pem is what 'vpncli certificate' prints, and has the pin of the gateway in a comment. Lines on stdout tell what happens:
//
//	assigned ADDRESS/32
//	route FIRST-LAST
//	refused STATUS TEXT
//	ended CAUSE
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	connectip "github.com/quic-go/connect-ip-go"
	"github.com/quic-go/quic-go"
	"github.com/yosida95/uritemplate/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// options are what the command line says.
type options struct {
	url, cert, pin, tun, request string
	mtu                          int
}

func main() {
	var o options
	flag.StringVar(&o.url, "url", "", "`URL` of the gateway")
	flag.StringVar(&o.cert, "cert", "", "`file` with a certificate and its key; none: none is shown")
	flag.StringVar(&o.pin, "pin", "", "of the gateway's key; none: any")
	flag.StringVar(&o.tun, "tun", "stock0", "`name` of the interface")
	flag.StringVar(&o.request, "request", "", "`address` to ask for")
	flag.IntVar(&o.mtu, "mtu", 1280, "of the interface")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Println("ended", err)
		os.Exit(1)
	}
	fmt.Println("ended in order")
}

// run carries packets until ctx is done or the connection ends.
func run(ctx context.Context, o options) error {
	conn, err := dial(ctx, o)
	if err != nil {
		return err
	}
	defer conn.Close()
	if o.request != "" {
		if err := ask(ctx, conn, o.request); err != nil {
			return err
		}
	}
	given, err := conn.ReceiveAddressAssignment(ctx)
	if err != nil {
		return err
	}
	routes, err := conn.Routes(ctx)
	if err != nil {
		return err
	}
	tun, err := open(o, given, routes)
	if err != nil {
		return err
	}
	defer tun.Close()
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), tun.Close() })()
	group.Go(func() error { return down(conn, tun) })
	group.Go(func() error { return up(conn, tun) })
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

func dial(ctx context.Context, o options) (*connectip.Conn, error) {
	c := &tls.Config{NextProtos: []string{"h3"}, InsecureSkipVerify: true, VerifyConnection: pinned(o.pin)}
	if o.cert != "" {
		own, err := tls.LoadX509KeyPair(o.cert, o.cert)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{own}
	}
	template, err := uritemplate.New(o.url)
	if err != nil {
		return nil, err
	}
	r, err := connectip.NewRequest(ctx, template)
	if err != nil {
		return nil, err
	}
	t := connectip.Transport{TLSClientConfig: c, QUICConfig: &quic.Config{EnableDatagrams: true, InitialPacketSize: 1350}}
	conn, answer, err := t.Dial(r)
	if answer != nil && answer.StatusCode != http.StatusOK {
		text := ""
		if answer.Body != nil {
			b, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
			text = strings.TrimSpace(string(b))
		}
		fmt.Println("refused", answer.StatusCode, text)
	}
	return conn, err
}

// pinned checks the key of the gateway: its certificate is self-signed.
func pinned(pin string) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if got := "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]); pin != "" && got != pin {
			return fmt.Errorf("the gateway has the key %s, want %s", got, pin)
		}
		return nil
	}
}

// ask asks for an address. What is assigned before the gateway has read that is passed over.
func ask(ctx context.Context, conn *connectip.Conn, address string) error {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	if _, err := conn.ReceiveAddressAssignment(ctx); err != nil {
		return err
	}
	_, err = conn.RequestAddresses([]netip.Prefix{netip.PrefixFrom(a, a.BitLen())})
	return err
}

// open makes the interface, with what the gateway has given.
func open(o options, given []connectip.AssignedAddress, routes []connectip.IPRoute) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	r, err := unix.NewIfreq(o.tun)
	if err != nil {
		return nil, err
	}
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return nil, err
	}
	commands := []string{fmt.Sprintf("link set %s mtu %d up", o.tun, o.mtu)}
	for _, a := range given {
		if a.Rejected() {
			fmt.Println("rejected", a.RequestID)
			continue
		}
		fmt.Println("assigned", a.IPPrefix)
		commands = append(commands, fmt.Sprintf("address add %s dev %s", a.IPPrefix, o.tun))
	}
	for _, r := range routes {
		fmt.Printf("route %s-%s\n", r.StartIP, r.EndIP)
		for _, p := range r.Prefixes() {
			commands = append(commands, fmt.Sprintf("route add %s dev %s", p, o.tun))
		}
	}
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	fmt.Println("up")
	return os.NewFile(uintptr(fd), "tun"), nil
}

// down writes to the interface what comes.
func down(conn *connectip.Conn, tun *os.File) error {
	b := make([]byte, 1<<16)
	for {
		n, err := conn.ReadPacket(b)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if _, err := tun.Write(b[:n]); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
}

// up sends what the interface wants to be sent.
func up(conn *connectip.Conn, tun *os.File) error {
	b := make([]byte, 1<<16)
	for {
		n, err := tun.Read(b)
		if err != nil {
			return err
		}
		icmp, err := conn.WritePacket(b[:n])
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if len(icmp) > 0 {
			_, _ = tun.Write(icmp)
		}
	}
}
