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
}

// contenders start the subjects in b.net.
var contenders = [subjects]func(b *bench) (*contender, error){
	ours: func(b *bench) (*contender, error) {
		f, err := b.startSecure(b.net.c1)
		if err != nil {
			return nil, err
		}
		return &contender{ferryAddr, ferryPort, f.Close}, nil
	},
	wireguardGo: func(b *bench) (*contender, error) {
		t, err := b.startWireguard()
		if err != nil {
			return nil, err
		}
		return &contender{wireguardAddr, wireguardPort, t.Close}, nil
	},
	openvpnUDP: func(b *bench) (*contender, error) { return b.startOpenVPN("udp4", "udp4") },
	openvpnTCP: func(b *bench) (*contender, error) { return b.startOpenVPN("tcp4-server", "tcp4-client") },
}

// startOpenVPN starts both ends as the samples of its documentation have them, and waits until a ping has passed.
func (b *bench) startOpenVPN(server, client string) (_ *contender, err error) {
	dir, err := os.MkdirTemp("", "ferry-bench-")
	if err != nil {
		return nil, err
	}
	var procs []*lab.Proc
	c := &contender{openvpnAddr, openvpnPort, func() { stop(procs...); _ = os.RemoveAll(dir) }}
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
		{b.net.gw, "server", fmt.Sprintf("--proto %s --port %d --server 10.78.0.0 255.255.255.0 --topology subnet --dh none --keepalive 10 60", server, openvpnPort)},
		{b.net.c1, "client", fmt.Sprintf("--client --proto %s --remote %s %d --nobind --resolv-retry infinite --remote-cert-tls server", client, bareGateway, openvpnPort)},
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
