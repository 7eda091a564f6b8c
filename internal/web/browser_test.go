package web

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"ferry/internal/api"
	"ferry/test/browser"
)

// hostile is what a client may call itself.
const hostile = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`

// populate makes the fake a gateway with n sessions, whose counters move with time.
func (f *fake) populate(n int) {
	began := time.Now()
	f.set(func() {
		f.status = api.Status{
			Version: "1.4.0", Started: began.Add(-76 * time.Hour), Fingerprint: "ferry-gw:3q2-7wXn0dYf1kzqkE8s", Exit: "user", Gateway: netip.MustParseAddr("10.0.0.1"),
			Pool: netip.MustParsePrefix("10.0.0.0/16"), PlainPool: netip.MustParsePrefix("10.0.128.0/17"), Peers: n + 3, Unauthenticated: 2,
			Listeners: []api.Listener{{URL: "tcp://:2002", Allow: "both"}, {URL: "quic://:2002", Allow: "tls"}, {URL: "wss://:443/ferry", Allow: "tls"}},
			Drops:     map[string]uint64{"denied": 1204, "queue_full": 311, "source": 18, "ipv6": 2940, "unassigned": 77},
			Closed:    map[string]uint64{"left": 410, "closed": 86, "key_unknown": 12, "source_rate": 3},
			Beyond:    map[string]uint64{"connections": 214, "flows": 31, "refused": 9},
			Names:     map[string]uint64{"local": 8123, "forwarded": 2210, "failed": 4},
			Leases:    api.Leases{Free: 32700, Live: 1, Held: 2}, Packets: 91234567, Bytes: 73 << 30,
		}
		f.forwards = []api.Forward{
			{From: "tcp://:8080", Bound: "tcp://:8080", To: "cam1:80", Connections: 3, Total: 918, Received: 7 << 30, Sent: 41 << 20},
			{From: "udp://:5353", Bound: "udp://:5353", To: "10.0.3.4:53", Fixed: true, Total: 12},
			{From: "tcp://:443", To: "door:443", Err: "listen tcp :443: bind: address already in use", Refused: 2},
		}
	})
	f.move(began, n)
}

var carriers = []string{"udp", "quic", "tcp", "wss", "tcp", "udp", "vsock"}
var kinds = []string{"cam", "door", "meter", "kiosk", "gate", "pump", "lift"}

// move makes the counters what they are some time after began.
func (f *fake) move(began time.Time, n int) {
	x := time.Since(began).Seconds()
	f.set(func() {
		f.status.Sessions = n
		f.sessions = f.sessions[:0:0]
		for i := range n {
			s := api.Session{
				ID: uint64(i + 1), Name: fmt.Sprintf("%s%d", kinds[i%len(kinds)], i/len(kinds)+1), Secure: true, Since: began.Add(-time.Duration(i+1) * 417 * time.Second),
				Address: netip.AddrFrom4([4]byte{10, 0, byte(3 + i/250), byte(i%250 + 2)}), Carrier: carriers[i%len(carriers)], From: fmt.Sprintf("203.0.113.%d:%d", i%250+1, 40000+i),
				Packets: uint64(1000 * i), Drops: map[string]uint64{},
			}
			// Each has a rate of its own that swings, in bytes: the integral of a + b sin.
			swing := func(rate, phase float64) uint64 {
				return uint64(rate * (x + 3 + (math.Cos(phase)-math.Cos(x/4+phase))*3))
			}
			s.Received, s.Sent = swing(4e5/float64(i+1)+300, float64(i)), swing(3e6/float64(i+1)+200, float64(i)/2)
			if i%5 == 0 {
				s.Drops["queue_full"] = uint64(i + 3)
			}
			if s.Carrier != "vsock" {
				s.Paths = []api.Path{{Carrier: s.Carrier, From: s.From, Since: s.Since}, {Carrier: "wss", From: s.From, Since: s.Since, Standby: true}}
			}
			f.sessions = append(f.sessions, s)
		}
		f.sessions = append(f.sessions,
			api.Session{ID: uint64(n + 1), Address: netip.MustParseAddr("10.0.200.9"), Carrier: "tcp", From: "192.168.7.31:51234", Since: began},
			api.Session{ID: uint64(n + 2), Name: "boat", Secure: true, Address: netip.MustParseAddr("10.0.9.9"), Since: began, Away: 12, Paths: []api.Path{}})
		f.leases = []api.Lease{{Address: netip.MustParseAddr("10.0.200.9"), Name: hostile, Session: uint64(n + 1)}}
		f.status.Packets, f.status.Bytes = 91234567+uint64(4000*(x+math.Sin(x/3))), 73<<30+uint64(4e6*x)
		f.status.Drops["denied"] = 1204 + uint64(6*x)
	})
}

// moving moves the counters until the test ends.
func (f *fake) moving(t *testing.T, n int) {
	began, stop, done := time.Now(), make(chan struct{}), make(chan struct{})
	f.populate(n)
	go func() {
		defer close(done)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				f.move(began, n)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// The page in a browser, in front of a gateway with a thousand sessions: it shows them, finds one, obeys, and is as wide as the
// window; what a client calls itself is text.
// exam: H1
func TestPage(t *testing.T) {
	p := browser.New(t)
	f := newFake(t, map[string]http.Handler{"GET " + capture: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("filter") == "bad" {
			api.Fail(w, http.StatusBadRequest, fmt.Errorf("the filter is bad"))
			return
		}
		_, _ = w.Write([]byte("pcap of " + r.URL.RawQuery))
	})})
	f.moving(t, 998)
	b := lead(t, f.dir)
	p.Open(b.URL())
	p.Wait(`document.querySelector('#state').textContent === 'live' && document.querySelectorAll('#sessions-table tbody tr').length === 20`)
	if got := p.Text("location.href"); got != "http://"+b.Addr().String()+"/" {
		t.Errorf("the address still shows %q", got)
	}
	if got := p.Text("document.cookie"); got != "" {
		t.Errorf("scripts see the cookie %q", got)
	}
	for expression, want := range map[string]string{
		"document.querySelector('#gateway').textContent":                             "10.0.0.1 in user mode, up for 3d 04h",
		"document.querySelector('#sessions-count').textContent":                      "1\u202f000",
		"document.querySelectorAll('#ports-table tbody tr').length":                  "3",
		"document.querySelectorAll('#drops tbody tr').length":                        "5",
		"document.querySelector('#drops tbody tr').innerText":                        "ipv6",
		"document.querySelector('#beyond-card').checkVisibility()":                   "true",
		"document.querySelector('#capture-card').checkVisibility()":                  "true",
		"document.querySelector('#ports-table tbody tr:nth-child(3)').innerText":     "address already in use",
		"document.querySelector('#ports-table tbody tr:nth-child(2)').innerText":     "by the configuration",
		"document.querySelector('#ports-table tbody tr:nth-child(2) button').hidden": "true",
	} {
		if got := p.Text(expression); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", expression, got, want)
		}
	}
	p.Wait(`document.querySelector('#chart-throughput .line-in').getAttribute('d').includes('L')`)

	// By keyboard: to the filter, and what it finds.
	p.Press("/")
	p.Wait(`document.activeElement.id === 'filter'`)
	p.Type("#filter", "onerror")
	p.Wait(`document.querySelectorAll('#sessions-table tbody tr').length === 1`)
	if got := p.Text("document.querySelector('#sessions-table tbody .name').textContent"); got != "“"+hostile+"”" {
		t.Errorf("the hostile name: got %q", got)
	}
	if got := p.Text("document.querySelectorAll('main img, main script').length + document.title"); got != "0Ferry 10.0.0.1" {
		t.Errorf("what a client calls itself became HTML: %q", got)
	}
	p.Type("#filter", "boat")
	p.Wait(`document.querySelector('#sessions-table tbody').innerText.includes('away')`)

	// Sorted by traffic, and more of them.
	p.Type("#filter", "")
	p.Click("[data-sort=rate]")
	p.Click("#sessions-more")
	p.Wait(`document.querySelectorAll('#sessions-table tbody tr').length === 40`)
	p.Wait(`document.querySelector('#sessions-table tbody .name').textContent === 'cam1'`)
	p.Click("#sessions-table tbody .name")
	p.Wait(`document.querySelector('.details .line-out').getAttribute('d').includes('L') && document.querySelector('.details dl').innerText.includes('stands by')`)

	checkPublish(t, p, f)
	p.Type("#capture-filter", "bad")
	p.Click("#capture-start")
	p.Wait(`document.querySelector('#capture-said').textContent === 'the filter is bad'`)
	// A refused request is an error of the console by itself, and there were two; nothing else is.
	for _, fault := range p.Faults() {
		if !strings.Contains(fault, "status of 400") {
			t.Errorf("console: %s", fault)
		}
	}
	if refused := b.Refused(); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	checkLooks(t, p)
}

// checkPublish adds a port, wrongly and rightly, and removes it.
func checkPublish(t *testing.T, p *browser.Page, f *fake) {
	t.Helper()
	p.Type("#publish-from", "gopher://:70")
	p.Type("#publish-to", "cam2:80\r")
	p.Wait(`document.querySelector('#publish-said').textContent.includes('<b>no</b> such scheme')`)
	p.Type("#publish-from", "tcp://:9090")
	p.Click("#publish button")
	p.Wait(`document.querySelector('#ports-table').innerText.includes('tcp://:9090')`)
	p.Click("[aria-label='Remove tcp://:9090']")
	p.Click("#remove-no")
	p.Wait(`!document.querySelector('#remove').open && document.querySelector('#ports-table').innerText.includes('tcp://:9090')`)
	p.Click("[aria-label='Remove tcp://:9090']")
	p.Click("#remove-yes")
	p.Wait(`!document.querySelector('#ports-table').innerText.includes('tcp://:9090')`)
	f.set(func() {
		if len(f.forwards) != 3 {
			t.Errorf("the gateway has %+v", f.forwards)
		}
	})
}

// checkLooks looks at the page in the sizes and colours that people have.
func checkLooks(t *testing.T, p *browser.Page) {
	t.Helper()
	background := map[string]bool{}
	for _, look := range []struct {
		name          string
		width, height int64
		dark          bool
	}{{"light", 1280, 1000, false}, {"dark", 1280, 1000, true}, {"phone", 390, 844, true}, {"tablet", 768, 1024, false}} {
		p.Show(look.width, look.height, look.dark)
		p.Text("scrollTo(0, 0)")
		p.Wait(fmt.Sprintf("innerWidth === %d", look.width))
		if got := p.Text("document.documentElement.scrollWidth"); got != fmt.Sprint(look.width) {
			t.Errorf("%s: the page is %s pixels wide, of %d", look.name, got, look.width)
		}
		background[p.Text("getComputedStyle(document.body).backgroundColor")] = true
		p.Shot(look.name)
	}
	if len(background) != 2 {
		t.Errorf("dark and light are %v", background)
	}
	for name, look := range map[string]struct {
		part  string
		width int64
	}{"ports": {"#ports", 1280}, "counters": {"#counters", 1280}, "phone-sessions": {"#sessions", 390}, "phone-ports": {"#ports", 390}, "phone-counters": {"#counters", 390}} {
		p.Show(look.width, 1000, name == "counters")
		p.Text(fmt.Sprintf("document.querySelector(%q).scrollIntoView()", look.part))
		p.Shot(name)
	}
}

// A capture that ends, one that breaks off and one that is stopped leave what they have, and each says what became of it.
func TestPageCapture(t *testing.T) {
	p := browser.New(t)
	seen := make(chan struct{}) // by the page: what comes together with the break is lost to it
	f := newFake(t, map[string]http.Handler{"GET " + capture: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 100))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-seen:
		case <-r.Context().Done(): // it was stopped
		}
		if r.URL.Query().Get("filter") == "broken" {
			panic(http.ErrAbortHandler) // as api.Send does, and as it is when the gateway goes away
		}
	})})
	p.Open(lead(t, f.dir).URL())
	p.Wait(`document.querySelector('#state')?.textContent === 'live' && document.querySelector('#capture-card').checkVisibility()`)
	for _, c := range []struct{ filter, said, kind string }{
		{"whole", "100 B saved", "said good"}, {"broken", "the capture broke off (network error): the 100 B before are saved", "said bad"}, {"stopped", "100 B saved", "said good"},
	} {
		p.Type("#capture-filter", c.filter)
		p.Click("#capture-start")
		p.Wait(`document.querySelector('#capture-said').textContent === 'capturing: 100 B'`)
		if c.filter == "stopped" {
			p.Click("#capture-start")
		} else {
			seen <- struct{}{}
		}
		p.Wait(`document.querySelector('#capture-start').textContent === 'Capture'`)
		said, kind := p.Text("document.querySelector('#capture-said').textContent"), p.Text("document.querySelector('#capture-said').className")
		if said != c.said || kind != c.kind {
			t.Errorf("%s: it says %q, %q, want %q, %q", c.filter, said, kind, c.said, c.kind)
		}
	}
}

// Without the fragment there is no key: the page says what to do, and asks no more.
func TestPageWithoutKey(t *testing.T) {
	p := browser.New(t)
	f := newFake(t, nil)
	b := lead(t, f.dir)
	p.Open(b.URL())
	p.Wait(`document.querySelector('#state')?.textContent === 'live'`)
	p.Text("sessionStorage.clear()")
	p.Do(chromedp.Reload())
	p.Wait(`document.querySelector('#notice')?.textContent.includes('open the URL that')`)
	if n := b.Refused()[string(ReasonKey)]; n == 0 || n > 5 {
		t.Errorf("refused %v", b.Refused())
	}
}

// Rates come of two samples: of a session that came between them too, none of a counter that began anew, none of a gateway that did.
func TestRates(t *testing.T) {
	p := browser.New(t)
	f := newFake(t, nil)
	p.Open(lead(t, f.dir).URL())
	p.Wait(`document.querySelector('#state')?.textContent === 'live'`)
	p.Text(`import('/history.js').then(({ History, age, bits, bytes, count }) => {
		const h = new History(), got = [];
		const status = (started, packets, drops) => ({ started, packets, drops });
		const rates = () => ['in', 'out', 'packets', 'drops', 'sessions'].map((name) => h.all.last(name)).join(' ');
		h.add(10000, status('a', 100, { source: 1 }), [{ id: 1, received: 5000, sent: 100 }]);
		got.push(h.all.length);
		h.add(12000, status('a', 150, { source: 2, denied: 3 }), [{ id: 1, received: 6000, sent: 100 }, { id: 2, received: 500, sent: 50 }]);
		got.push(rates(), h.rate(1, 'in'), h.rate(2, 'out'), h.reasons.denied);
		h.add(12500, status('a', 900, {}), []); // too soon
		got.push(h.all.length);
		h.add(14000, status('a', 150, { source: 2, denied: 3 }), [{ id: 2, received: 100, sent: 50 }]);
		got.push(rates(), h.sessions.size);
		h.add(16000, status('b', 5, {}), [{ id: 2, received: 9000, sent: 0 }]);
		got.push(h.all.length, h.sessions.size);
		for (let i = 1; i <= 1000; i++) h.add(16000 + 2000 * i, status('b', 5 + i, {}), [{ id: 2, received: 9000 + i, sent: 0 }]);
		got.push(h.all.length, h.points(2, 'in', 0).length, h.points(2, 'in', 16000 + 2000 * 995).length, rates());
		got.push(bits(999), bits(1234567), bits(25.1e9), bytes(1023), bytes(1536), count(1234567), age(new Date(Date.now() - 90061000).toISOString()));
		window.got = got.join('; ');
	})`)
	p.Wait("window.got !== undefined")
	want := "0; 6000 200 25 2 2; 4000; 200; 1.5; 1; 0 0 0 0 1; 1; 2; 1; 450; 150; 6; 4 0 0.5 0 1; " +
		"999 bit/s; 1.23 Mbit/s; 25.1 Gbit/s; 1023 B; 1.50 KiB; 1\u202f234\u202f567; 1d 01h"
	if got := p.Text("window.got"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
