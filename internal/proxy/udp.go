package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/relay"
)

// UDP ASSOCIATE (RFC 1928, section 7). A program has a socket of this process for itself until its connection ends:
//
//	program --connection: UDP ASSOCIATE----> server
//	program <--[header: from whom][data]---> socket --flow of the destination--> tunnel
//
// The rules are:
//
//   - Only the program is heard: its address is that of its connection, its port the one that it has announced, or that its first datagram has.
//   - A fragment is dropped. Nobody sends any, and to put them together takes memory for strangers.
//   - There are at most maxAssociations, each with maxDestinations; of these the one gives way that was sent to longest ago.
//   - Names are looked up on the tunnel's side, and a reply says from which address it comes.
const (
	maxAssociations = 128
	maxDestinations = 64
	flowIdle        = 2 * time.Minute
)

// Reasons in Counts.
const (
	countFull     = "full"         // programs beyond those at once
	countUDPFull  = "udp_full"     // associations beyond those at once, destinations that gave way, and datagrams too many for a name that is looked up
	countFragment = "udp_fragment" // datagrams with FRAG != 0
	countHeader   = "udp_header"   // datagrams without a header that can be read
	countStranger = "udp_stranger" // datagrams that did not come from the program
	countDial     = "udp_dial"     // destinations that could not be dialled
	countReply    = "udp_reply"    // replies that could not be handed to the program
)

// Counts has what proxies have refused or dropped, by reason. The zero value is ready.
type Counts struct {
	mu  sync.Mutex // guards all
	all map[string]uint64
}

func (c *Counts) add(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]uint64{}
	}
	c.all[reason]++
}

// All returns the counts so far: none that is 0.
func (c *Counts) All() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.all)
}

// A destination is where a program sends datagrams.
type destination struct {
	addr netip.AddrPort // its port counts also where there is a name
	name string
}

func (d destination) String() string {
	if d.name != "" {
		return net.JoinHostPort(d.name, strconv.Itoa(int(d.addr.Port())))
	}
	return d.addr.String()
}

// An association is what one program sends and receives.
type association struct {
	s       *server
	ctx     context.Context
	socket  *net.UDPConn
	program netip.AddrPort // port 0: not known yet
	at      atomic.Pointer[netip.AddrPort]
	flows   *relay.Flows[destination]
	last    destination // whose name is used again

	wait [1]unix.PollFd
	now  unix.Timespec // zero: no wait
}

// associate serves a program that sends datagrams, from a port that it has announced, or 0, until its connection ends.
func (s *server) associate(ctx context.Context, program *net.TCPConn, port uint16) {
	if s.dial == nil {
		_ = answer(program, repCommand, netip.AddrPort{})
		return
	}
	if s.associations.Add(1) > maxAssociations {
		s.associations.Add(-1)
		s.counts.add(countUDPFull)
		_ = answer(program, repFailure, netip.AddrPort{})
		return
	}
	defer s.associations.Add(-1)
	local := program.LocalAddr().(*net.TCPAddr)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		s.log.Warn("proxy", "err", err)
		_ = answer(program, repFailure, netip.AddrPort{})
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &association{s: s, ctx: ctx, socket: socket, program: netip.AddrPortFrom(unmapped(program.RemoteAddr()).Addr(), port)}
	a.flows = relay.NewFlows(relay.FlowConfig[destination]{
		Max: maxDestinations, Idle: flowIdle, Dial: a.dial, Waits: func(d destination) bool { return d.name != "" }, Reply: a.reply,
		Made: func() {}, Full: func() { s.counts.add(countUDPFull) }, Sent: func(int) {},
	})
	var reading sync.WaitGroup
	reading.Go(a.read)
	if answer(program, repOK, unmapped(socket.LocalAddr())) == nil {
		_, _ = io.Copy(io.Discard, program) // until it ends
	}
	cancel()
	_ = socket.Close()
	reading.Wait()
	a.flows.Close()
}

func unmapped(a net.Addr) netip.AddrPort {
	at := a.(interface{ AddrPort() netip.AddrPort }).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// read hands on what the program sends until the socket is closed. It holds no buffer while nothing comes.
func (a *association) read() {
	raw, err := a.socket.SyscallConn()
	if err != nil {
		return
	}
	for raw.Read(a.readable) == nil {
		b := relay.Borrow()
		n, from, err := a.socket.ReadFromUDPAddrPort(b[:])
		if err == nil {
			a.take(b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		}
		relay.GiveBack(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// readable tells whether something has come.
func (a *association) readable(fd uintptr) bool {
	a.wait[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Ppoll(a.wait[:], &a.now, nil)
	return n > 0 || err != nil && err != unix.EINTR
}

// take hands on one datagram.
func (a *association) take(b []byte, from netip.AddrPort) {
	if from.Addr() != a.program.Addr() || a.program.Port() != 0 && from.Port() != a.program.Port() {
		a.s.counts.add(countStranger)
		return
	}
	to, data, reason := consumeHeader(b, a.last)
	if reason != "" {
		a.s.counts.add(reason)
		return
	}
	a.last = to
	if a.at.Load() == nil {
		a.program = from
		a.at.Store(&from)
	}
	a.flows.Send(to, data)
}

func (a *association) dial(to destination) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(a.ctx, dialTime)
	defer cancel()
	conn, err := a.s.dial(ctx, "udp", to.String())
	if err != nil && a.ctx.Err() == nil {
		a.s.counts.add(countDial)
		a.s.log.Debug("proxy", "addr", to.String(), "err", err)
	}
	return conn, err
}

// reply hands the program what came from far.
func (a *association) reply(_ destination, far net.Conn, data []byte) error {
	out := relay.Borrow()
	defer relay.GiveBack(out)
	b := appendHeader(out[:0], unmapped(far.RemoteAddr()))
	if len(b)+len(data) > len(out) {
		a.s.counts.add(countReply)
		return nil
	}
	_, err := a.socket.WriteToUDPAddrPort(append(b, data...), *a.at.Load()) // which was there before the flow
	if err != nil && !errors.Is(err, net.ErrClosed) {
		a.s.counts.add(countReply)
	}
	return err
}

// headerHead is what stands before an address: reserved 2, FRAG 1, kind of address 1.
const headerHead = 4

// consumeHeader reads the header of a datagram, or says which reason there is against that. A name that was used last is not made anew.
func consumeHeader(b []byte, last destination) (to destination, data []byte, reason string) {
	switch {
	case len(b) < headerHead || b[0] != 0 || b[1] != 0:
		return to, nil, countHeader
	case b[2] != 0:
		return to, nil, countFragment
	}
	kind, b := b[3], b[headerHead:]
	n := 0
	switch {
	case kind == atypIPv4:
		n = 4
	case kind == atypIPv6:
		n = 16
	case kind == atypName && len(b) > 0:
		n, b = int(b[0]), b[1:]
	}
	if n == 0 || len(b) < n+2 {
		return to, nil, countHeader
	}
	host, port, data := b[:n], binary.BigEndian.Uint16(b[n:]), b[n+2:]
	if port == 0 {
		return to, nil, countHeader
	}
	if kind != atypName {
		a, _ := netip.AddrFromSlice(host)
		return destination{addr: netip.AddrPortFrom(a.Unmap(), port)}, data, ""
	}
	if bytes.ContainsAny(host, "/?%:[]\x00 \t\r\n") {
		return to, nil, countHeader
	}
	to.addr = netip.AddrPortFrom(netip.Addr{}, port)
	if to.name = last.name; string(host) != last.name {
		to.name = string(host)
	}
	return to, data, ""
}

// appendHeader appends the header of a datagram that came from an address.
func appendHeader(b []byte, from netip.AddrPort) []byte {
	b = append(b, 0, 0, 0)
	return appendAddress(b, from)
}

// appendAddress appends an address and its port as RFC 1928 has them.
func appendAddress(b []byte, a netip.AddrPort) []byte {
	if a.Addr().Is6() {
		ip := a.Addr().As16()
		b = append(append(b, atypIPv6), ip[:]...)
	} else {
		var ip [4]byte
		if a.IsValid() {
			ip = a.Addr().As4()
		}
		b = append(append(b, atypIPv4), ip[:]...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port())
}
