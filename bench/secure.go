package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	floodRate    = 2000 // handshakes that are begun a second
	floodSources = 200
	floodTime    = 10 * time.Second
	joinEvery    = 200 * time.Millisecond // beside it
	joinWithin   = time.Second
	floodUDP     = "100M" // bits a second through the tunnel beside it
)

// secureSessionsRow measures what sessions with keys cost a gateway, and how fast it shakes hands.
func secureSessionsRow(ctx context.Context, b *bench) ([]*line, error) {
	if err := raiseFiles(uint64(b.sessions + 1000)); err != nil {
		return nil, err
	}
	n := fmt.Sprintf("%d idle TLS sessions", b.sessions)
	lines := []*line{
		{what: n + ": vpnsrv RSS, MiB", bars: []bar{atMost(240, "<= 240 MiB")}},
		{what: n + ": vpnsrv CPU, % of one core", bars: []bar{below(2, "< 2 %")}},
		{what: n + ": time to join, s"},
		{what: "handshakes a second (clients on the same cores)"},
	}
	return lines, b.inTurn(ctx, []path{{ours, bareGateway}}, func(ctx context.Context, p path) ([]float64, error) {
		f := ferry{secure: true}
		defer f.Close()
		if err := f.start(b, crowd); err != nil {
			return nil, err
		}
		stop(f.srv)
		if err := f.know(b.sessions); err != nil {
			return nil, err
		}
		if err := f.serve(b); err != nil {
			return nil, err
		}
		got, err := b.idleSessions(ctx, &f, p)
		if err != nil {
			return nil, err
		}
		return append(got, float64(b.sessions)/got[2]), nil
	}, lines...)
}

// deviceKey returns the key of a device by its number: the generators know it as well.
func deviceKey(i int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "bench device %d", i))
	return ed25519.NewKeyFromSeed(seed[:])
}

// know writes n devices where the gateway keeps them.
func (f *ferry) know(n int) error {
	type peer struct {
		Name      string    `json:"name"`
		Key       []byte    `json:"key"` // base64 in JSON
		Addresses []string  `json:"addresses"`
		Added     time.Time `json:"added"`
	}
	var file struct {
		Version     int      `json:"version"`
		Peers       []peer   `json:"peers"`
		Invitations []string `json:"invitations"`
	}
	file.Version = 1
	for i := range n {
		file.Peers = append(file.Peers, peer{
			Name: fmt.Sprint("device", i), Key: deviceKey(i).Public().(ed25519.PublicKey),
			Addresses: []string{fmt.Sprintf("10.0.%d.%d", 1+i/250, 1+i%250)}, Added: time.Now().UTC(),
		})
	}
	b, err := json.Marshal(file)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.state, "peers.json"), b, 0o600)
}

// tlsConfig is that of a device.
func tlsConfig(i int) (*tls.Config, error) {
	key := deviceKey(i)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS13, NextProtos: []string{"ferry/1"},
		InsecureSkipVerify: true, // the gateway was started for this measurement
	}, nil
}

// shake speaks TLS on a connection as the device with a number.
func shake(ctx context.Context, conn net.Conn, i int) (net.Conn, error) {
	c, err := tlsConfig(i)
	if err != nil {
		return nil, err
	}
	t := tls.Client(conn, c)
	return t, t.HandshakeContext(ctx)
}

// floodRow measures how many clients that mean well join, and what a tunnel loses, while strangers begin
// 2,000 handshakes a second. The limits are those that vpnsrv is shipped with.
func floodRow(ctx context.Context, b *bench) ([]*line, error) {
	f := ferry{secure: true}
	defer f.Close()
	if err := f.start(b, ""); err != nil {
		return nil, err
	}
	stop(f.srv)
	if err := errors.Join(
		f.know(1), f.serve(b), f.connect(b, b.net.c2),
		runs(b.net.c1, "ip route replace local 10.66.0.0/16 dev lo"),
		runs(b.net.gw, "ip route replace 10.66.0.0/16 via 192.168.101.2"),
	); err != nil {
		return nil, err
	}
	server, err := startIperf(b.net.gw)
	if err != nil {
		return nil, err
	}
	defer stop(server)
	lines := []*line{
		{what: "UDP at 100 Mbit/s in TLS, lost, %"},
		{what: "the same beside a flood of 2,000 handshakes a second, lost, %", bars: []bar{atMost(20, "<= 20 %")}},
		{what: "joins within 1 s beside it, %", bars: []bar{{">= 99 %", own, func(x float64) bool { return x >= 99 }}}},
	}
	return lines, b.inTurn(ctx, []path{{ours, ferryAddr}}, func(ctx context.Context, p path) ([]float64, error) {
		return b.besideFlood(ctx, p)
	}, lines...)
}

func (b *bench) besideFlood(ctx context.Context, p path) ([]float64, error) {
	calm, err := b.lostUDP(ctx, p.addr)
	if err != nil {
		return nil, err
	}
	strangers, err := b.net.c1.Start(b.self, "flood", "-addr", bareGateway+":2002")
	if err != nil {
		return nil, err
	}
	defer stop(strangers)
	if _, err := strangers.Await("flooding", 0, patience); err != nil {
		return nil, err
	}
	joins, err := b.net.c2.Start(b.self, "joins", "-addr", "192.168.102.1:2002")
	if err != nil {
		return nil, err
	}
	defer stop(joins)
	lost, err := b.lostUDP(ctx, p.addr)
	if err != nil {
		return nil, err
	}
	line, err := joins.Await("joined", 0, 2*floodTime)
	if err != nil {
		return nil, err
	}
	var good, all int
	if _, err := fmt.Sscanf(line, "joined %d of %d", &good, &all); err != nil {
		return nil, fmt.Errorf("%q: %w", line, err)
	}
	if _, err := strangers.Stop(patience); err != nil {
		return nil, err
	}
	progress("  %s; %s", line, strangers.Output())
	return []float64{calm, lost, 100 * float64(good) / float64(all)}, nil
}

// lostUDP sends UDP through the tunnel from c2, and returns what was lost in percent.
func (b *bench) lostUDP(ctx context.Context, addr string) (float64, error) {
	out, err := output(ctx, b.net.c2, "iperf3", "-J", "-u", "-b", floodUDP, "-l", "1200", "-t", fmt.Sprint(int((floodTime / 2).Seconds())), "-c", addr)
	if err != nil {
		return 0, err
	}
	var r struct {
		End struct {
			Sum struct {
				Lost float64 `json:"lost_percent"`
			}
		}
	}
	return r.End.Sum.Lost, json.Unmarshal([]byte(out), &r)
}

// floodHellos is a traffic generator: it begins handshakes and does not end them, until SIGTERM.
func floodHellos(args []string) error {
	set := flag.NewFlagSet("flood", flag.ContinueOnError)
	addr := set.String("addr", "", "address of the gateway, with the port")
	if err := set.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*floodTime)
	defer cancel()
	hello, err := clientHello()
	if err != nil {
		return err
	}
	var begun, answered atomic.Int64
	var all sync.WaitGroup
	const threads = 64
	fmt.Println("flooding")
	began := time.Now()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	for thread := range threads {
		all.Go(func() { // ends with ctx
			every := time.Second * threads / floodRate
			for i := thread; sleep(ctx, time.Until(began.Add(time.Duration(i/threads)*every))); i += threads {
				begun.Add(1)
				if beginHandshake(*addr, i%floodSources, hello) {
					answered.Add(1)
				}
			}
		})
	}
	all.Wait()
	fmt.Printf("begun %d in %.1f s, answered %d\n", begun.Load(), time.Since(began).Seconds(), answered.Load())
	return nil
}

// beginHandshake sends a hello from one of many sources and tells whether something came back.
func beginHandshake(addr string, source int, hello []byte) bool {
	d := net.Dialer{Timeout: 200 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 66, 0, byte(1+source))}}
	c, err := d.Dial("tcp4", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := c.Write(hello); err != nil {
		return false
	}
	n, _ := c.Read(make([]byte, 1))
	return n > 0
}

// clientHello returns the first flight of a handshake.
func clientHello() ([]byte, error) {
	c, err := tlsConfig(0)
	if err != nil {
		return nil, err
	}
	a, b := net.Pipe()
	defer a.Close()
	go func() { _ = tls.Client(b, c).Handshake() }() // ends with the pipe
	buf := make([]byte, 8<<10)
	n, err := a.Read(buf)
	return buf[:n], err
}

// countJoins is a traffic generator: again and again it joins, and counts how often it has an address in time.
func countJoins(args []string) error {
	set := flag.NewFlagSet("joins", flag.ContinueOnError)
	addr := set.String("addr", "", "address of the gateway, with the port")
	if err := set.Parse(args); err != nil {
		return err
	}
	good, all := 0, 0
	ticker := time.NewTicker(joinEvery)
	defer ticker.Stop()
	for began := time.Now(); time.Since(began) < floodTime/2; {
		<-ticker.C
		all++
		if joinOnce(*addr) == nil {
			good++
		}
	}
	fmt.Printf("joined %d of %d\n", good, all)
	return nil
}

func joinOnce(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), joinWithin)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	t, err := shake(ctx, c, 0)
	if err != nil {
		return err
	}
	_, err = ask(t, dynamicRequest)
	return err
}
