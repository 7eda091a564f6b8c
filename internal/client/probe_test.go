package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// A path is what the pings of a test go through, and the gateway at its end.
type path struct {
	rtt     time.Duration
	rate    int    // bits a second that come back; 0: no limit
	mtu     int    // of a link of datagrams; 0: a stream
	largest int    // longer ones, and on a stream everything behind them, are lost; 0: none
	lose    uint64 // one in so many
	begin   int    // so many at first
	refuses bool   // the key
	silent  bool   // it answers nothing
	dial    error
	sent    []int       // sizes
	full    []time.Time // when pings of the largest size came
	closed  error       // how the connection ended for the gateway
	cut     bool        // an answer came too late
}

// A pathLink is a link on a path.
type pathLink struct {
	*carrier.Stream
	max int
}

func (l pathLink) Max() int { return l.max }

// serve answers pings and keepalives.
func (p *path) serve(conn net.Conn) {
	type late struct {
		b  []byte
		at time.Time
	}
	answers := make(chan late, 4096)
	go func() {
		for a := range answers {
			time.Sleep(time.Until(a.at))
			if _, err := conn.Write(a.b); err != nil {
				p.cut = true
				return
			}
		}
	}()
	defer close(answers)
	var buf []byte
	var busy time.Time // until then the line is
	f := proto.Framer{Extended: true}
	for stuck := false; ; {
		b := make([]byte, 4096)
		n, err := conn.Read(b)
		if err != nil {
			p.closed = err
			return
		}
		buf = append(buf, b[:n]...)
		for {
			kind, n, err := f.Next(buf)
			if err != nil || n == 0 {
				break
			}
			item := slices.Clone(buf[:n])
			buf = buf[n:]
			p.sent = append(p.sent, n)
			if n == probeSizes[len(probeSizes)-1] {
				p.full = append(p.full, time.Now())
			}
			lost := len(p.sent) <= p.begin || p.lose > 0 && uint64(len(p.sent))%p.lose == 0 || p.largest > 0 && n > p.largest
			stuck = stuck || lost && p.mtu == 0
			if lost || stuck || p.silent {
				continue
			}
			if kind == proto.KindPing {
				item = proto.AppendPong(nil, item)
			}
			if p.rate > 0 {
				busy = laterOf(busy, time.Now()).Add(time.Duration(len(item)*8) * time.Second / time.Duration(p.rate))
			}
			answers <- late{item, laterOf(busy, time.Now()).Add(p.rtt)}
		}
	}
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// probeOf returns a probe of paths, with or without keys.
func probeOf(t *testing.T, plain bool, paths map[string]*path) *Probe {
	t.Helper()
	p := &Probe{line: semaphore.NewWeighted(probeAtOnce)}
	if !plain {
		p.c.Key = identity.NewKey()
	}
	for _, url := range slices.Sorted(maps.Keys(paths)) {
		e, err := carrier.ParseDial(url, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.ways = append(p.ways, probeWay{endpoint: e})
	}
	p.reach = func(ctx context.Context, e carrier.Endpoint, _ *keyring) (carrier.Link, error) {
		w := paths[e.String()]
		if w.dial == context.DeadlineExceeded {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if w.dial != nil {
			return nil, w.dial
		}
		ours, theirs := net.Pipe()
		if w.refuses {
			return pathLink{carrier.NewStream(refusing{ours}), 0}, nil
		}
		go w.serve(theirs)
		return pathLink{carrier.NewStream(ours), w.mtu}, nil
	}
	return p
}

// refusing is a connection by which the gateway refuses the key: behind the handshake, as TLS 1.3 has it.
type refusing struct{ net.Conn }

func (refusing) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "remote error", Err: tls.AlertError(alertBadCertificate)}
}
func (refusing) Write(b []byte) (int, error) { return len(b), nil }

func TestProbe(t *testing.T) {
	const tcp, udp = "tcp://192.0.2.1:2002", "udp://192.0.2.1:2002"
	for name, tt := range map[string]struct {
		way   string
		path  path
		plain bool
		want  ProbeResult
	}{
		"a stream":              {way: tcp, path: path{rtt: 20 * time.Millisecond}, want: ProbeResult{Works: true, RTT: 0.02, Largest: 1400}},
		"datagrams":             {way: udp, path: path{rtt: 20 * time.Millisecond, mtu: 1420}, want: ProbeResult{Works: true, RTT: 0.02, Largest: 1400}},
		"short datagrams":       {way: udp, path: path{rtt: 20 * time.Millisecond, mtu: 1163}, want: ProbeResult{Works: true, RTT: 0.02, Largest: 1163}},
		"one in ten lost":       {way: udp, path: path{rtt: 20 * time.Millisecond, mtu: 1420, lose: 10}, want: ProbeResult{Works: true, RTT: 0.02, Loss: 0.1, Largest: 1400, Reason: "10 % of the pings are lost"}},
		"the first ones lost":   {way: udp, path: path{rtt: 20 * time.Millisecond, mtu: 1420, begin: 2}, want: ProbeResult{Works: true, RTT: 0.02, Largest: 1400}},
		"large datagrams lost":  {way: udp, path: path{rtt: 20 * time.Millisecond, mtu: 1420, largest: 1200}, want: ProbeResult{Works: true, RTT: 0.02, Largest: 1000, Reason: "nothing of 1280 bytes comes back: large packets are lost on the way"}},
		"a stream that stalls":  {way: tcp, path: path{rtt: 20 * time.Millisecond, largest: 1000}, want: ProbeResult{Works: true, RTT: 0.02, Largest: 1000, Reason: "nothing of 1280 bytes comes back: large packets are lost on the way"}},
		"small packets only":    {way: tcp, path: path{rtt: 20 * time.Millisecond, largest: 100}, want: ProbeResult{RTT: 0.02, Reason: "only small packets pass: nothing of 576 bytes comes back"}},
		"nothing comes back":    {way: tcp, path: path{silent: true}, want: ProbeResult{Reason: errEcho.Error(), Error: errEcho.Error()}},
		"the key is refused":    {way: tcp, path: path{refuses: true}, want: ProbeResult{Reason: errKey.Error(), Error: errKey.Error()}},
		"plain":                 {way: tcp, path: path{rtt: 20 * time.Millisecond}, plain: true, want: ProbeResult{Works: true, RTT: 0.02}},
		"plain and no answer":   {way: tcp, path: path{silent: true}, plain: true, want: ProbeResult{Reason: errEcho.Error(), Error: errEcho.Error()}},
		"nobody answers by UDP": {way: udp, path: path{dial: context.DeadlineExceeded}, want: ProbeResult{Reason: "no answer within 5s: UDP may be blocked, or vpnsrv does not listen there", Error: "context deadline exceeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				all := probeOf(t, tt.plain, map[string]*path{tt.way: &tt.path}).Run(t.Context(), nil)
				got := all[0]
				if d := time.Since(began); d > 10*time.Second {
					t.Errorf("it took %s", d)
				}
				synctest.Wait()
				if tt.path.dial == nil && !tt.path.refuses && tt.path.closed != io.EOF {
					t.Errorf("for the gateway the connection ended with %v", tt.path.closed)
				}
				if measured := got.Estimate > 0; measured != (got.Works && !tt.plain && tt.want.Reason == "" || got.Works && tt.path.mtu > 0) {
					t.Errorf("got an estimate of %.0f bit/s", got.Estimate)
				}
				got.Estimate = 0
				tt.want.Carrier, tt.want.Way = got.Carrier, tt.way
				if got != tt.want {
					t.Errorf("\n got %+v\nwant %+v", got, tt.want)
				}
			})
		})
	}
}

// What is estimated is what the narrowest part of the way carries.
func TestProbeEstimate(t *testing.T) {
	for name, tt := range map[string]struct {
		url string
		mtu int
	}{"a stream": {"tcp://192.0.2.1:2002", 0}, "datagrams": {"udp://192.0.2.1:2002", 1420}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &path{rtt: 20 * time.Millisecond, rate: 10_000_000, mtu: tt.mtu}
				r := probeOf(t, false, map[string]*path{tt.url: p}).Run(t.Context(), nil)[0]
				if r.Estimate < 9.5e6 || r.Estimate > 10.5e6 {
					t.Errorf("got %.0f bit/s, want 10 Mbit/s", r.Estimate)
				}
				synctest.Wait()
			})
		})
	}
}

// Only one way at a time fills the line.
func TestProbeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := map[string]*path{}
		for i := range 6 {
			paths[fmt.Sprintf("tcp://192.0.2.%d:2002", i+1)] = &path{rtt: 20 * time.Millisecond}
		}
		for _, r := range probeOf(t, false, paths).Run(t.Context(), nil) {
			if r.Estimate == 0 || r.Reason != "" {
				t.Errorf("got %+v", r)
			}
		}
		synctest.Wait()
		var spans [][2]time.Time
		for _, p := range paths { // the first was to find out whether it passes
			spans = append(spans, [2]time.Time{p.full[1], p.full[len(p.full)-1]})
		}
		slices.SortFunc(spans, func(a, b [2]time.Time) int { return a[0].Compare(b[0]) })
		for i := range spans[1:] {
			if spans[i+1][0].Before(spans[i][1]) {
				t.Errorf("%s to %s, and another one from %s on", spans[i][0], spans[i][1], spans[i+1][0])
			}
		}
	})
}

// Once the key was refused nothing more is begun: a gateway counts refusals, and hears nothing of who has had too many.
func TestProbeRefusedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := map[string]*path{}
		for i := range 20 {
			paths[fmt.Sprintf("tcp://192.0.2.%d:2002", i+1)] = &path{refuses: true}
		}
		told := 0
		tried := 0
		for _, r := range probeOf(t, false, paths).Run(t.Context(), func(ProbeResult) { told++ }) {
			if r.Reason == errKey.Error() {
				tried++
			} else if r.Reason != errNotTried.Error() {
				t.Errorf("got %+v", r)
			}
		}
		if tried < 1 || tried > probeAtOnce || told != len(paths) {
			t.Errorf("%d were tried, want at most %d; %d of %d were told", tried, probeAtOnce, told, len(paths))
		}
	})
}

// Who interrupts hears what is known so far.
func TestProbeInterrupted(t *testing.T) {
	const tcp, udp, reason = "tcp://192.0.2.1:2002", "udp://192.0.2.1:2002", "not finished: interrupted"
	for name, tt := range map[string]struct {
		after time.Duration
		paths map[string]*path
		works []string
	}{
		"one done, one without an answer": {2 * time.Second, map[string]*path{tcp: {rtt: 20 * time.Millisecond}, udp: {dial: context.DeadlineExceeded}}, []string{"true ", "false " + reason}},
		"in the middle":                   {1200 * time.Millisecond, map[string]*path{tcp: {rtt: 100 * time.Millisecond}}, []string{"true " + reason}},
		"in the middle of a slow one":     {2 * time.Second, map[string]*path{tcp: {rtt: 900 * time.Millisecond}}, []string{"true " + reason}},
		"before it has answered":          {2 * time.Second, map[string]*path{tcp: {silent: true, rtt: time.Second}}, []string{"false " + reason}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(tt.after, cancel)
				began := time.Now()
				var got []string
				for _, r := range probeOf(t, false, tt.paths).Run(ctx, nil) {
					got = append(got, fmt.Sprintf("%t %s", r.Works, r.Reason))
				}
				if d := time.Since(began); d > 3*time.Second || !slices.Equal(got, tt.works) {
					t.Errorf("after %s got %q, want %q", d, got, tt.works)
				}
				synctest.Wait()
				for url, p := range tt.paths {
					if p.cut && p.rtt < probeLinger {
						t.Errorf("%s: closed while something was under way", url)
					}
				}
			})
		})
	}
}

func TestProbeWays(t *testing.T) {
	const usual = "tcp://gw:2002 udp://gw:2002 quic://gw:2002 wss://gw:443/ferry connect-ip://gw:443 ssh://gw:2022 icmp://gw"
	key := identity.NewKey()
	for name, tt := range map[string]struct {
		c    Config
		want string // an error begins with "error"
	}{
		"a name":              {Config{Servers: []string{"gw"}, Key: key}, usual},
		"a name and a port":   {Config{Servers: []string{"gw"}, Key: key, Port: 77}, "tcp://gw:77 udp://gw:77 quic://gw:77 wss://gw:443/ferry connect-ip://gw:443 ssh://gw:2022 icmp://gw"},
		"a URL":               {Config{Servers: []string{"tcp://gw:2002"}, Key: key}, "tcp://gw:2002"},
		"known by joining":    {Config{Servers: []string{"tcp://gw:7"}, Key: key, Found: true}, "tcp://gw:7 " + usual},
		"both":                {Config{Servers: []string{"gw", "vsock://2:9"}, Key: key}, usual + " vsock://2:9"},
		"a name, plain":       {Config{Servers: []string{"gw"}}, "tcp://gw:2002"},
		"by two carriers":     {Config{Servers: []string{"gw"}, Key: key, Carriers: []string{"ws", "ssh"}}, "ws://gw:80/ferry ssh://gw:2022"},
		"by none of those":    {Config{Servers: []string{"gw"}, Key: key, Carriers: []string{"vsock"}}, "error: the gateway is named by none"},
		"plain, by datagrams": {Config{Servers: []string{"udp://gw:1"}}, "udp://gw:1: nobody comes by udp without a key"},
		"nothing":             {Config{}, "error: no gateway is named"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.c.setDefaults()
			ways, err := probeWays(&tt.c)
			var all []string
			for _, w := range ways {
				if w.err != nil {
					all = append(all, w.err.Error())
				} else {
					all = append(all, w.endpoint.String())
				}
			}
			got := strings.Join(all, " ")
			if err != nil {
				got = "error: " + err.Error()
			}
			if got != tt.want && !(strings.Contains(tt.want, " nobody") || strings.HasPrefix(tt.want, "error")) || !strings.HasPrefix(got, tt.want) {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestWhyNot(t *testing.T) {
	dial := func(url string, err error) error {
		return fmt.Errorf("dial %s: %w", url, &net.OpError{Op: "dial", Net: "tcp", Err: err})
	}
	const tcp, wss = "tcp://192.0.2.1:2002", "wss://192.0.2.1:443/ferry"
	for name, tt := range map[string]struct {
		url   string
		plain bool
		err   error
		want  string
	}{
		"refused":            {tcp, false, dial(tcp, os.NewSyscallError("connect", syscall.ECONNREFUSED)), "refused: nothing listens there"},
		"no answer":          {tcp, false, dial(tcp, os.ErrDeadlineExceeded), "no answer within 5s: the port is filtered"},
		"no handshake":       {tcp, false, context.DeadlineExceeded, "connected, but no handshake within 5s"},
		"reset":              {tcp, false, notGateway(os.NewSyscallError("read", syscall.ECONNRESET)), "the connection was reset: something on the way"},
		"offline":            {tcp, false, dial(tcp, os.NewSyscallError("connect", syscall.ENETUNREACH)), "there is no route to it"},
		"another gateway":    {tcp, false, notGateway(identity.ErrWrongKey), "this is not the gateway that is known to this device: if its key was replaced"},
		"plain gateway":      {tcp, false, notGateway(io.EOF), "this is not the gateway that is known to this device: no TLS is spoken there"},
		"closed":             {tcp, false, io.EOF, "the gateway closed the connection without an answer"},
		"closed, plain":      {tcp, true, io.EOF, errNoAnswer.Error()},
		"proxy, password":    {wss, false, fmt.Errorf("dial %s: the proxy http://p:3128: the proxy wants a user name and password: write", wss), "the proxy http://p:3128: the proxy wants a user name and password"},
		"proxy, not there":   {wss, false, fmt.Errorf("dial %s: the proxy http://p:3128: nothing listens there: %w", wss, syscall.ECONNREFUSED), "the proxy http://p:3128: nothing listens there"},
		"no name":            {tcp, false, fmt.Errorf("dial %s: the name gw was not found: %w", tcp, &net.DNSError{IsNotFound: true}), "the name gw was not found"},
		"something else":     {tcp, false, fmt.Errorf("dial %s: %w", tcp, errors.Join(errors.New("a"), errors.New("b"))), "a; b"},
		"says goodbye":       {tcp, false, &byeError{proto.GoodbyeMessage{Reason: proto.ReasonShutdown}}, "the gateway says: "},
		"interrupted":        {tcp, false, context.Canceled, "not finished: interrupted"},
		"a socket is missed": {"unix:///run/vm.sock", true, fmt.Errorf("dial: %w", syscall.ENOENT), "there is no such socket"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := carrier.ParseDial(tt.url, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := whyNot(e, tt.plain, tt.err); !strings.HasPrefix(got, tt.want) || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
