package netstack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"ferry/internal/hostnet"
	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// Config is what an Exit can be told. The zero value of a field means its default, which is what it says in the comment.
type Config struct {
	Log *slog.Logger // nothing

	// DialTimeout is how long a destination has to answer: 10 s.
	DialTimeout time.Duration
	// Dials is how many destinations may be dialled at once, and ClientDials how many of them for one client: 2048, 256. What
	// comes beyond that is dropped, and the client's SYN comes again.
	Dials, ClientDials int
	// Conns is how many connections of TCP there may be, and Flows how many of UDP and ICMP: 32768, 8192. All three are less where this process may
	// not have as many descriptors: some are for new clients, and for files.
	Conns, Flows int
	// Memory is how much all connections of TCP may hold together of what their ends have not taken, bytes: 256 MiB.
	Memory int
	// Idle is after how long without a byte a connection or flow ends: 2 h for TCP, 2 min for UDP, 10 s for ICMP, and 10 s for UDP
	// to port 53, which are a question and an answer.
	Idle func(protocol uint8, port uint16) time.Duration
	// Alias has destinations that stand for others, as 192.168.127.254 for 127.0.0.1: none. What they stand for is reached by no other name,
	// whatever the router lets pass.
	Alias map[netip.Addr]netip.Addr
}

// target returns where a destination really is.
func (c *Config) target(to netip.AddrPort) netip.AddrPort {
	if a, ok := c.Alias[to.Addr()]; ok {
		return netip.AddrPortFrom(a, to.Port())
	}
	return to
}

func (c *Config) setDefaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.DialTimeout = cmp.Or(c.DialTimeout, 10*time.Second)
	files := maxFiles()
	c.Dials, c.ClientDials = cmp.Or(c.Dials, min(2048, files/8)), cmp.Or(c.ClientDials, 256)
	c.Memory = cmp.Or(c.Memory, 256<<20)
	c.Conns, c.Flows = cmp.Or(c.Conns, min(32768, files/2)), cmp.Or(c.Flows, min(8192, files/4))
	if c.Idle == nil {
		c.Idle = defaultIdle
	}
}

// maxFiles returns how many descriptors this process may have (RLIMIT_NOFILE; the Go runtime has raised it as far as it may).
func maxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt
	}
	return int(min(limit.Cur, math.MaxInt32))
}

const (
	protoICMP = uint8(header.ICMPv4ProtocolNumber)
	protoTCP  = uint8(header.TCPProtocolNumber)
	protoUDP  = uint8(header.UDPProtocolNumber)
)

func defaultIdle(protocol uint8, port uint16) time.Duration {
	switch {
	case protocol == protoTCP:
		return 2 * time.Hour
	case protocol == protoICMP, port == 53:
		return 10 * time.Second
	}
	return 2 * time.Minute
}

// An Exit is a network behind the gateway, made of sockets.
type Exit struct {
	c      Config
	port   *router.Port
	link   *link
	stack  *stack.Stack
	flows  *flows
	conns  *conns
	count  counters
	owners atomic.Pointer[func(netip.Addr) netip.Addr] // nil: each address is a client of its own

	mu   sync.Mutex
	addr netip.Addr // of the gateway
}

// New returns an Exit. It has no address until Apply.
func New(c Config) (*Exit, error) {
	c.setDefaults()
	e := &Exit{c: c, link: newLink()}
	e.port = router.NewPort(0, router.Caps{Super: true, Exit: true}, e)
	var err error
	if e.stack, err = newStack(e.link); err != nil {
		return nil, err
	}
	e.flows = newFlows(e)
	e.conns = newConns(e)
	if err := e.takeAll(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// takeAll makes the stack take packets for any address, and hand on what is new.
func (e *Exit) takeAll() error {
	if err := e.stack.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("netstack: take packets for any address: %s", err)
	}
	if err := e.stack.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("netstack: send from any address: %s", err)
	}
	e.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, e.conns.packet)
	e.stack.SetTransportProtocolHandler(udp.ProtocolNumber, e.flows.reassembled)
	e.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, e.flows.reassembled)
	return nil
}

// KnowOwners says how to find the client that a source belongs to: what is bounded for a client is so for all that it routes. It may be called at any time.
func (e *Exit) KnowOwners(of func(source netip.Addr) netip.Addr) { e.owners.Store(&of) }

// owner returns the address of the client that a source belongs to.
func (e *Exit) owner(source netip.Addr) netip.Addr {
	if of := e.owners.Load(); of != nil {
		return (*of)(source)
	}
	return source
}

// Port returns the place of the exit in the router.
func (e *Exit) Port() *router.Port { return e.port }

// Apply gives the gateway its address, and packets to clients a length of MTU at most. Nothing else of a state means anything here: there is
// no device of the kernel's, and NAT is what the exit does anyway.
func (e *Exit) Apply(s hostnet.State) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.MTU > 0 {
		e.link.SetMTU(uint32(s.MTU))
	}
	if err := move(e.stack, e.addr, s.Addr.Addr()); err != nil {
		return err
	}
	e.addr = s.Addr.Addr()
	e.flows.gateway.Store(new(e.addr))
	return nil
}

// Send implements router.Sender.
func (e *Exit) Send(run []byte) (dropped int, why router.Reason) {
	for len(run) > 0 {
		n := proto.DataLen(run)
		if !e.take(run[:n]) {
			dropped, why = dropped+1, router.DropExit
		}
		run = run[n:]
	}
	return dropped, why
}

// take hands a data frame to what it is for. It keeps nothing of it.
func (e *Exit) take(frame []byte) bool {
	ip := packet.IPv4(frame[proto.DataHeaderLen:])
	o, _ := packet.ConsumeOffload(frame[proto.FrameHeaderLen:])
	if isDamaged(o, ip) {
		e.count.checksum.Add(1)
		return false
	}
	if ip.TTL() <= 1 && !e.isGateway(ip.Dst()) {
		e.expire(ip)
		return true
	}
	if o.Flags&packet.NeedsCsum != 0 && int(o.CsumStart) > ip.HeaderLen() { // within what is to be a payload, as of a packet in VXLAN
		ip = bytes.Clone(ip)
		packet.CompleteChecksum(o, ip)
	}
	if isWhole(ip) && e.flows.packet(ip) {
		return true
	}
	return e.link.deliver(ip)
}

func isWhole(ip packet.IPv4) bool { return !ip.MoreFragments() && ip.FragmentOffset() == 0 }

// isDamaged tells whether a checksum is wrong, of those that there are, or the length of a datagram. The kernel's stack looks, too: what was
// damaged before it came into a tunnel must not become a good packet by going through one.
func isDamaged(o packet.Offload, ip packet.IPv4) bool {
	return packet.Checksum(ip[:ip.HeaderLen()], 0) != 0 || isWrong(o, ip)
}

// isWrong tells that of what is behind the header.
func isWrong(o packet.Offload, ip packet.IPv4) bool {
	if o.Flags&packet.NeedsCsum != 0 || !isWhole(ip) {
		return false
	}
	b := ip[ip.HeaderLen():]
	switch ip.Protocol() {
	case protoTCP:
		return packet.Checksum(b, packet.PseudoSum(ip, protoTCP, len(b))) != 0
	case protoUDP:
		if len(b) < udpHeader {
			return true
		}
		n := int(binary.BigEndian.Uint16(b[4:])) // what stands behind it is none of UDP's (RFC 9868)
		if n < udpHeader || n > len(b) {
			return true
		}
		return (b[6] != 0 || b[7] != 0) && packet.Checksum(b[:n], packet.PseudoSum(ip, protoUDP, n)) != 0
	case protoICMP:
		return packet.Checksum(b, 0) != 0
	}
	return false
}

// Run hands what comes from the network to f until ctx is done, and then ends all connections.
func (e *Exit) Run(ctx context.Context, f *router.Forwarder) error {
	e.link.run(ctx, f)
	e.flows.close()
	e.conns.close()
	return nil
}

// Close gives up all that the stack has. It is called after Run has returned.
func (e *Exit) Close() error {
	e.flows.close()
	e.conns.close()
	e.stack.Destroy()
	return nil
}
