package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"
)

// Values of RFC 1928.
const (
	version = 5

	noProof      = 0
	noAcceptable = 0xff

	cmdConnect   = 1
	cmdAssociate = 3

	atypIPv4 = 1
	atypName = 3
	atypIPv6 = 4

	repOK              = 0
	repFailure         = 1
	repNetUnreachable  = 3
	repHostUnreachable = 4
	repRefused         = 5
	repExpired         = 6
	repCommand         = 7
	repAddress         = 8
)

// errAddress is the answer to a kind of address that RFC 1928 does not have.
var errAddress = errors.New("unknown kind of address")

// ServeSOCKS serves SOCKS5 on l until ctx is done, and returns nil then. What dial returns for udp is what relay.FlowConfig wants; nil: there is no udp.
func ServeSOCKS(ctx context.Context, l net.Listener, connect Connect, dial Dial, counts *Counts, log *slog.Logger) error {
	s := &server{connect: connect, dial: dial, counts: counts, log: log}
	return s.accept(ctx, l, s.socks)
}

// socks serves one program.
func (s *server) socks(ctx context.Context, program *net.TCPConn) {
	defer program.Close()
	_ = program.SetDeadline(time.Now().Add(helloTime))
	command, address, reply := hello(program)
	if reply != repOK {
		_ = answer(program, reply, netip.AddrPort{})
		return
	}
	if address == "" {
		return
	}
	_ = program.SetDeadline(time.Time{})
	if command == cmdAssociate {
		s.associate(ctx, program, portOf(address))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	half, err := s.connect(ctx, address)
	cancel()
	if err != nil {
		s.log.Debug("proxy", "addr", address, "err", err)
		_ = answer(program, replyTo(err), netip.AddrPort{})
		return
	}
	if answer(program, repOK, netip.AddrPort{}) != nil { // by which address it is connected is nobody's concern
		_ = half.Close()
		return
	}
	half.Join(program, nil)
}

// portOf returns the port of what readAddress has returned.
func portOf(address string) uint16 {
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.ParseUint(text, 10, 16)
	return uint16(port)
}

// hello reads what a program wants: a command and an address for it, or why not. Neither: it does not speak SOCKS5. Not a byte more is read
// than that.
func hello(program io.ReadWriter) (command byte, address string, reply byte) {
	var b [2]byte
	if _, err := io.ReadFull(program, b[:]); err != nil || b[0] != version {
		return 0, "", repOK
	}
	methods := make([]byte, b[1])
	if _, err := io.ReadFull(program, methods); err != nil {
		return 0, "", repOK
	}
	choice := byte(noAcceptable)
	for _, m := range methods {
		if m == noProof {
			choice = noProof
		}
	}
	if _, err := program.Write([]byte{version, choice}); err != nil || choice == noAcceptable {
		return 0, "", repOK
	}
	var head [4]byte // version, command, reserved, kind of address
	if _, err := io.ReadFull(program, head[:]); err != nil || head[0] != version {
		return 0, "", repOK
	}
	address, err := readAddress(program, head[3])
	switch command = head[1]; {
	case errors.Is(err, errAddress):
		return command, "", repAddress
	case err != nil:
		return command, "", repOK
	case command != cmdConnect && command != cmdAssociate:
		return command, "", repCommand
	}
	return command, address, repOK
}

// readAddress reads an address of a kind, and the port behind it.
func readAddress(r io.Reader, kind byte) (string, error) {
	var b [255]byte
	n := 0
	switch kind {
	case atypIPv4:
		n = 4
	case atypIPv6:
		n = 16
	case atypName:
		if _, err := io.ReadFull(r, b[:1]); err != nil {
			return "", err
		}
		n = int(b[0])
	default:
		return "", errAddress
	}
	if _, err := io.ReadFull(r, b[:n]); err != nil {
		return "", err
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", err
	}
	host := string(b[:n])
	if kind != atypName {
		a, _ := netip.AddrFromSlice(b[:n])
		host = a.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), nil
}

// answer tells a program what has become of its request, and where it sends datagrams to.
func answer(w io.Writer, reply byte, at netip.AddrPort) error {
	_, err := w.Write(appendAddress([]byte{version, reply, 0}, at))
	return err
}

// replyTo returns what a failed attempt is called in RFC 1928.
func replyTo(err error) byte {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return repRefused
	case errors.Is(err, syscall.ENETUNREACH):
		return repNetUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &dns):
		return repHostUnreachable
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded):
		return repExpired
	}
	return repFailure
}
