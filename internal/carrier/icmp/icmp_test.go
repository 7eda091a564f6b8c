package icmp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
	"ferry/internal/carrier/netsock"
	"ferry/internal/identity"
)

// namespaceEnv says that this process is the one in a namespace of its own.
const namespaceEnv = "FERRY_ICMP_NAMESPACE"

// Tests run in a network namespace of their own: raw sockets take no rights of the host there, and nobody else pings. No goroutine is left when all is
// closed.
func TestMain(m *testing.M) {
	if os.Getenv(namespaceEnv) == "" {
		os.Exit(inNamespace())
	}
	if err := loopbackUp(); err != nil {
		fmt.Println("bring lo up:", err)
		os.Exit(1)
	}
	carriertest.Main(m)
}

// inNamespace runs the tests again, and returns their status.
func inNamespace() int {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), namespaceEnv+"=1", "GORACE=atexit_sleep_ms=0")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := c.Run()
	if c.ProcessState == nil {
		fmt.Println("no namespace can be made:", err)
		return 1
	}
	return c.ProcessState.ExitCode()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

func everybody(identity.Protocol, identity.Public) error { return nil }

// pair returns both ends of a connection over loopback, where the kernel answers each question, too.
func pair(t testing.TB) (client, gateway carrier.Link) {
	t.Helper()
	return pairBehind(t, func() {})
}

// pairBehind is pair, with something that happens at the gateway before the client comes.
func pairBehind(t testing.TB, before func()) (client, gateway carrier.Link) {
	t.Helper()
	e := carrier.Endpoint{Scheme: "icmp", Host: "127.0.0.1"}
	l, err := Listen(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	key := identity.NewKey()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	links := make(chan carrier.Link, 1)
	go func() { // ends with the handshake
		defer close(links)
		p, err := l.Accept()
		if err != nil {
			return
		}
		if link, _, _, err := p.Handshake(ctx, key.Server(everybody)); err == nil {
			links <- link
		}
	}()
	before()
	client, err = Dial(ctx, e, nil, identity.NewKey().Client(identity.Tunnel, key.Public().Pin()))
	if err != nil {
		t.Fatal(err)
	}
	gateway, ok := <-links
	if !ok {
		t.Fatal("the gateway has no connection")
	}
	t.Cleanup(func() { _, _ = client.Close(), gateway.Close() })
	return client, gateway
}

func TestLink(t *testing.T) {
	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) { return pair(t) })
}

// A gateway that strangers have asked from more addresses than it remembers lets a client in all the same.
func TestCrowd(t *testing.T) {
	client, gateway := pairBehind(t, func() {
		out := rawPing(t)
		for i := range uint16(6000) {
			b := appendHeader(nil, echoRequest, echo{identifier: i})
			if err := unix.Sendto(out, b, 0, netsock.Sockaddr(loopback)); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err := client.Write(packetOf(100), nil); err != nil {
		t.Fatal(err)
	}
	if _, start, end, err := gateway.Fill(); end-start == 0 || err != nil {
		t.Errorf("%d bytes have come, %v", end-start, err)
	}
}

func TestNames(t *testing.T) {
	client, gateway := pair(t)
	if a := client.RemoteAddr(); a.Network() != "icmp" || a.String() != "127.0.0.1" {
		t.Errorf("the client calls the gateway %s %s", a.Network(), a)
	}
	a, ok := gateway.RemoteAddr().(interface{ AddrPort() netip.AddrPort })
	if !ok || a.AddrPort().Addr() != netip.MustParseAddr("127.0.0.1") || a.AddrPort().Port() == 0 {
		t.Errorf("the gateway calls the client %v", gateway.RemoteAddr())
	}
}
