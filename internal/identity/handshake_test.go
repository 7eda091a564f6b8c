package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

var errStranger = errors.New("stranger")

// only admits one key to the tunnel, and everybody to joining.
func only(known Public) func(Protocol, Public) error {
	return func(p Protocol, key Public) error {
		if p == Tunnel && key != known {
			return errStranger
		}
		return nil
	}
}

// shake plays a handshake, with a byte behind it from the server: a TLS 1.3 client does not know before
// that it was admitted.
func shake(t *testing.T, server, client *tls.Config) (s, c tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	done := make(chan error)
	sc, cc := tls.Server(a, server), tls.Client(b, client)
	go func() {
		err := sc.Handshake()
		if err == nil {
			_, err = sc.Write([]byte{1})
		}
		_ = a.(*net.TCPConn).CloseWrite() // the other end has yet to read our alert
		done <- err
	}()
	defer a.Close()
	clientErr = cc.Handshake()
	if clientErr == nil {
		_, clientErr = cc.Read(make([]byte, 1))
	}
	_ = b.Close()
	serverErr = <-done
	return sc.ConnectionState(), cc.ConnectionState(), serverErr, clientErr
}

func TestHandshake(t *testing.T) {
	gateway, device := NewKey(), NewKey()
	for _, p := range []Protocol{Tunnel, Join} {
		s, c, serverErr, clientErr := shake(t, gateway.Server(only(device.Public())), device.Client(p, gateway.Public().Pin()))
		if serverErr != nil || clientErr != nil {
			t.Fatal(serverErr, clientErr)
		}
		if got, key, err := Proven(s); got != p || key != device.Public() || err != nil {
			t.Errorf("the gateway knows %s, %s, %v", got, key, err)
		}
		if got, key, err := Proven(c); got != p || key != gateway.Public() || err != nil {
			t.Errorf("the device knows %s, %s, %v", got, key, err)
		}
		if s.CurveID != tls.X25519MLKEM768 {
			t.Errorf("agreed on %s", s.CurveID)
		}
	}
	old := device.Client(Tunnel, gateway.Public().Pin())
	old.CurvePreferences = []tls.CurveID{tls.X25519}
	if _, _, serverErr, clientErr := shake(t, gateway.Server(only(device.Public())), old); serverErr != nil || clientErr != nil {
		t.Errorf("X25519 alone: %v, %v", serverErr, clientErr)
	}
}

// chain returns certificates for a key that is not of this package's making.
func chain(t *testing.T, private any, public any, copies int) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: noExpiry}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Certificate{PrivateKey: private}
	for range copies {
		c.Certificate = append(c.Certificate, der)
	}
	return c
}

// signed returns a certificate for a new key, or for another one, that somebody else has signed.
func signed(t *testing.T, by Key, change func(*x509.Certificate), public ...any) tls.Certificate {
	t.Helper()
	k := NewKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: noExpiry}
	if change != nil {
		change(template)
	}
	public = append(public, k.private.Public())
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{}, public[0], by.private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.private}
}

// A pretender signs with a key that it does not have.
type pretender struct{ key *rsa.PublicKey }

func (p pretender) Public() crypto.PublicKey { return p.key }
func (p pretender) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, p.key.Size()), nil
}

// Each of these fails, and the device sees no byte of the gateway behind the handshake.
// exam: A1, A3
func TestGatewayRefuses(t *testing.T) {
	gateway, device := NewKey(), NewKey()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*tls.Config)
		want   error // nil: any
	}{
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, nil},
		{"a key that nobody knows", func(c *tls.Config) { c.Certificates = []tls.Certificate{NewKey().certificate()} }, errStranger},
		{"a known key that is not its own", func(c *tls.Config) {
			c.Certificates[0].PrivateKey = NewKey().private
		}, nil},
		{"a chain", func(c *tls.Config) {
			c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, c.Certificates[0].Certificate[0])
		}, ErrCertificate},
		{"a long chain", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{chain(t, ed25519.PrivateKey(device.private), device.private.Public(), 500)}
		}, ErrCertificate},
		{"a chain of more than 256 KiB", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{chain(t, ed25519.PrivateKey(device.private), device.private.Public(), 1500)}
		}, nil},
		{"a stranger's key, signed by the gateway", func(c *tls.Config) { c.Certificates = []tls.Certificate{signed(t, gateway, nil)} }, errStranger},
		{"a stranger's key, signed by a known device", func(c *tls.Config) { c.Certificates = []tls.Certificate{signed(t, device, nil)} }, errStranger},
		{"a stranger's key behind which the known one comes", func(c *tls.Config) {
			own := signed(t, device, nil)
			own.Certificate = append(own.Certificate, c.Certificates[0].Certificate[0])
			c.Certificates = []tls.Certificate{own}
		}, ErrCertificate},
		{"a stranger's key with a known name", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{signed(t, device, func(x *x509.Certificate) {
				x.Subject.CommonName, x.DNSNames = "cam1", []string{"cam1"}
			})}
		}, errStranger},
		{"a stranger's key, expired", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{signed(t, device, func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Hour) })}
		}, errStranger},
		{"a stranger's key, of the future", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{signed(t, device, func(x *x509.Certificate) { x.NotBefore = time.Now().Add(time.Hour) })}
		}, errStranger},
		{"a stranger's key for another use", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{signed(t, device, func(x *x509.Certificate) {
				x.ExtKeyUsage, x.KeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, x509.KeyUsageCertSign
			})}
		}, errStranger},
		{"the known key in another encoding", func(c *tls.Config) {
			// An algorithm with parameters, which RFC 8410 forbids; the lengths around it grow with them.
			der := c.Certificates[0].Certificate[0]
			at := bytes.LastIndex(der, []byte{0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70})
			der = slices.Insert(bytes.Clone(der), at+9, 5, 0)
			der[at+1], der[at+3] = 0x2c, 7
			der[2], der[4] = der[2]+2, der[4]+2 // the certificate, and what of it is signed
			if _, err := x509.ParseCertificate(der); err == nil || !strings.Contains(err.Error(), "illegal parameters") {
				panic(fmt.Sprint("not the certificate that is meant: ", err))
			}
			c.Certificates[0].Certificate = [][]byte{der}
		}, nil},
		{"the known key as one for another algorithm", func(c *tls.Config) {
			der := bytes.Clone(c.Certificates[0].Certificate[0])
			at := bytes.LastIndex(der, []byte{0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70})
			der[at+8] = 0x6e // X25519
			c.Certificates[0].Certificate = [][]byte{der}
		}, nil},
		{"RSA of 1024 bits", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{chain(t, weakKey, &weakKey.PublicKey, 1)}
		}, nil},
		{"RSA of 16384 bits", func(c *tls.Config) {
			n := new(big.Int).Lsh(big.NewInt(1), 16383)
			huge := &rsa.PublicKey{N: n.Add(n, big.NewInt(0x10001)), E: 65537}
			own := signed(t, device, nil, huge)
			own.PrivateKey = pretender{huge}
			c.Certificates = []tls.Certificate{own}
		}, nil},
		{"RSA", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{chain(t, rsaKey, &rsaKey.PublicKey, 1)}
		}, ErrCertificate},
		{"ECDSA", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{chain(t, ecKey, &ecKey.PublicKey, 1)}
		}, ErrCertificate},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, nil},
		{"another protocol", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, nil},
		{"no protocol", func(c *tls.Config) { c.NextProtos = nil }, ErrProtocol},
		{"another curve", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := device.Client(Tunnel, gateway.Public().Pin())
			c.VerifyConnection = nil
			tt.change(c)
			began := time.Now()
			_, _, serverErr, clientErr := shake(t, gateway.Server(only(device.Public())), c)
			if serverErr == nil || clientErr == nil {
				t.Fatalf("gateway %v, device %v: want errors", serverErr, clientErr)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %s: what a stranger shows costs too much", took)
			}
			if tt.want != nil && !errors.Is(serverErr, tt.want) {
				t.Errorf("gateway: got %v, want %v", serverErr, tt.want)
			}
		})
	}
}

// The device takes nobody but the gateway that it has pinned, whatever is in its certificate.
// exam: A1
func TestDeviceRefuses(t *testing.T) {
	gateway, device, other := NewKey(), NewKey(), NewKey()
	tests := []struct {
		name   string
		change func(*tls.Config)
		want   error
	}{
		{"another key", func(c *tls.Config) { c.Certificates = []tls.Certificate{other.certificate()} }, ErrWrongKey},
		{"the gateway's key, not its own", func(c *tls.Config) { c.Certificates[0].PrivateKey = other.private }, nil},
		{"the gateway's certificate behind its own", func(c *tls.Config) {
			own := other.certificate()
			own.Certificate = append(own.Certificate, c.Certificates[0].Certificate[0])
			c.Certificates = []tls.Certificate{own}
		}, ErrCertificate},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, nil},
		{"no protocol", func(c *tls.Config) { c.NextProtos = nil }, ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := gateway.Server(only(device.Public()))
			c.VerifyConnection = nil
			tt.change(c)
			_, _, _, clientErr := shake(t, c, device.Client(Tunnel, gateway.Public().Pin()))
			if clientErr == nil || tt.want != nil && !errors.Is(clientErr, tt.want) {
				t.Errorf("got %v, want %v", clientErr, tt.want)
			}
		})
	}
}

// A ticket of an earlier connection opens nothing: each proves its keys.
// exam: U7
func TestNoResumption(t *testing.T) {
	gateway, device := NewKey(), NewKey()
	server := gateway.Server(only(device.Public()))
	client := device.Client(Tunnel, gateway.Public().Pin())
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		s, c, serverErr, clientErr := shake(t, server, client)
		if serverErr != nil || clientErr != nil || s.DidResume || c.DidResume {
			t.Fatalf("resumed %v %v, %v, %v", s.DidResume, c.DidResume, serverErr, clientErr)
		}
	}
	resumed := tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: string(Tunnel), DidResume: true}
	if _, _, err := Proven(resumed); !errors.Is(err, ErrProtocol) {
		t.Errorf("a resumed connection: got %v", err)
	}
}

// A wall clock that is wrong by years is no reason to be locked out.
// exam: F15
func TestNoDates(t *testing.T) {
	gateway, device := NewKey(), NewKey()
	for _, year := range []int{1970, 2000, 2100, 9000} {
		t.Run(fmt.Sprint(year), func(t *testing.T) {
			at := func() time.Time { return time.Date(year, 2, 1, 0, 0, 0, 0, time.UTC) }
			server, client := gateway.Server(only(device.Public())), device.Client(Tunnel, gateway.Public().Pin())
			server.Time, client.Time = at, at
			if _, _, serverErr, clientErr := shake(t, server, client); serverErr != nil || clientErr != nil {
				t.Errorf("%v, %v", serverErr, clientErr)
			}
		})
	}
}
