package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ferry/test/lab"
)

const (
	openvpnAddr = "10.78.0.1" // of the gateway, inside
	openvpnPort = 1194
	ferryPort   = 2002
)

// A contender is a tunnel from c1 to the gateway that runs.
type contender struct {
	addr string // of the gateway, inside
	port int    // of the gateway, outside
	stop func()
	told func() string // what its programs have printed
	// What ours goes by now, and how that changed so far; of others nil.
	way     func() string
	changes func() []change
}

// startPeer starts one of the others in b.net.
func (b *bench) startPeer(s subject) (*contender, error) {
	switch s {
	case wireguardGo:
		t, err := b.startWireguard()
		if err != nil {
			return nil, err
		}
		return &contender{addr: wireguardAddr, port: wireguardPort, stop: t.Close, told: t.told}, nil
	case openvpnUDP:
		return b.startOpenVPN("udp4", "udp4", "--explicit-exit-notify 1")
	case openvpnTCP:
		return b.startOpenVPN("tcp4-server", "tcp4-client", "")
	case iodine:
		return b.startIodine()
	}
	panic("bench: nobody starts " + subjectNames[s])
}

// printed is what programs have printed.
func printed(procs []*lab.Proc) string {
	var all []string
	for _, p := range procs {
		all = append(all, p.Output())
	}
	return strings.Join(all, "\n\n") + "\n"
}

// impatient makes OpenVPN notice failures as soon as it can: a ping a second, after two seconds of silence a new connection, and no
// longer pause before that than a second. Its times are whole seconds.
const impatient = "--connect-retry 1 1 --server-poll-timeout 2 --tls-timeout 1"

// startOpenVPN starts both ends as the samples of its documentation have them, but for the times, and waits until a ping has passed.
func (b *bench) startOpenVPN(server, client, more string) (_ *contender, err error) {
	dir, err := os.MkdirTemp("", "ferry-bench-")
	if err != nil {
		return nil, err
	}
	var procs []*lab.Proc
	c := &contender{addr: openvpnAddr, port: openvpnPort, stop: func() { stop(procs...); _ = os.RemoveAll(dir) }}
	c.told = func() string { return printed(procs) }
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if err := writeCertificates(dir); err != nil {
		return nil, err
	}
	for _, end := range []struct {
		ns   *lab.Namespace
		name string
		args string
	}{
		{b.net.gw, "server", fmt.Sprintf("--proto %s --port %d --server 10.78.0.0 255.255.255.0 --topology subnet --dh none --keepalive 1 2", server, openvpnPort)},
		{b.net.c1, "client", fmt.Sprintf("--client --proto %s --remote %s %d --nobind --resolv-retry infinite --remote-cert-tls server %s %s", client, bareGateway, openvpnPort, impatient, more)},
	} {
		args := fmt.Sprintf("openvpn --cd %s --dev tun --disable-dco --persist-tun --persist-key --ca ca.crt --cert %s.crt --key %s.key %s", dir, end.name, end.name, end.args)
		p, err := end.ns.Start(strings.Fields(args)...)
		if err != nil {
			return nil, err
		}
		procs = append(procs, p)
		if _, err := p.Await("Initialization Sequence Completed", 0, patience); err != nil {
			return nil, err
		}
	}
	return c, runs(b.net.c1, "ping -q -n -c 1 -w 10 "+openvpnAddr)
}

// writeCertificates makes an authority, and a server and a client that it vouches for.
func writeCertificates(dir string) error {
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := writeCertificate(dir, "ca", ca, ca, nil)
	if err != nil {
		return err
	}
	for i, end := range []struct {
		name string
		use  x509.ExtKeyUsage
	}{{"server", x509.ExtKeyUsageServerAuth}, {"client", x509.ExtKeyUsageClientAuth}} {
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: end.name}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, ExtKeyUsage: []x509.ExtKeyUsage{end.use},
		}
		if _, err := writeCertificate(dir, end.name, cert, ca, key); err != nil {
			return err
		}
	}
	return nil
}

// writeCertificate writes one with a new key, signed by another one or, without that, by itself.
func writeCertificate(dir, name string, cert, by *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, by, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, errors.Join(
		os.WriteFile(filepath.Join(dir, name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
}
