package netns

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ferry/test/browser"
	"ferry/test/rawvpn"
)

// startWeb runs 'vpnsrv web' where the browser is, until the test ends, and returns the URL that it prints.
func (n *network) startWeb() string {
	n.t.Helper()
	cmd := exec.CommandContext(context.Background(), filepath.Join(bin, "vpnsrv"), "web", "--state", n.state)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	n.t.Cleanup(func() { // Ctrl-C
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			n.t.Error(err)
		}
		_, _ = lines.WriteTo(&strings.Builder{})
		if err := cmd.Wait(); err != nil {
			n.t.Errorf("vpnsrv web: %v", err)
		}
	})
	url, err := lines.ReadString('\n')
	if err != nil {
		n.t.Fatalf("%q, %v", url, err)
	}
	return strings.TrimSpace(url)
}

// TestWeb has an operator who looks at a gateway in a browser: the page shows who is connected, a port that is published in it answers and
// one that is removed does not, and what a client calls itself stays text.
// exam: H1
func TestWeb(t *testing.T) {
	t.Parallel()
	p := browser.New(t)
	n := newSecure(t, "--listen", "tcp://:2002?allow=both")
	cam := newClient(t, n.c1, "--state", n.join(n.c1, "cam1"))
	addr := cam.waitConnected()
	const hostile = `<img src=x onerror=alert(1)>`
	guest := n.joinRaw(rawvpn.Ask{Features: rawvpn.All, Name: hostile})
	if err := guest.SendPacket(guest.Lease.Addr.Next(), gatewayAddr, 17, make([]byte, 16)); err != nil { // a spoofed source
		t.Fatal(err)
	}
	port := serveWeb(t, n.c1)

	p.Open(n.startWeb())
	row := func(name string) string {
		return fmt.Sprintf(`[...document.querySelectorAll('#sessions-table tbody tr')].find((tr) => tr.querySelector('.name')?.textContent === %q)?.innerText`, name)
	}
	p.Wait(fmt.Sprintf(`%s?.includes(%q)`, row("cam1"), addr))
	p.Wait(fmt.Sprintf(`%s?.includes(%q)`, row("“"+hostile+"”"), guest.Lease.Addr.String()))
	p.Wait(`document.querySelector('#drops').innerText.includes('source')`)
	if got := p.Text("document.querySelectorAll('main img').length"); got != "0" {
		t.Errorf("%s images in the page", got)
	}
	if got := p.Text("document.querySelector('#gateway').textContent"); !strings.Contains(got, gatewayVPN) {
		t.Errorf("got %q", got)
	}
	run(t, n.c1, "ping -n -q -c 200 -i 0.002 -s 1300 "+gatewayVPN)
	p.Wait(fmt.Sprintf(`parseFloat(%s.match(/↑ ([0-9.]+)/)[1]) > 0 || document.querySelector('#chart-throughput .line-in').getAttribute('d').includes('L')`, row("cam1")))

	p.Type("#publish-from", "tcp://:8081")
	p.Type("#publish-to", fmt.Sprintf("cam1:%d\r", port))
	p.Wait(`document.querySelector('#ports-table').innerText.includes('tcp://:8081')`)
	if got := fetch(t, n.lan, "tcp", "198.51.100.1:8081"); got != "hello from cam1" {
		t.Errorf("got %q", got)
	}
	p.Wait(`document.querySelector('#ports-table tbody tr td:nth-child(5)').textContent === '1'`)
	p.Click("[aria-label='Remove tcp://:8081']")
	p.Click("#remove-yes")
	p.Wait(`!document.querySelector('#ports-table').innerText.includes('tcp://:8081')`)
	if err := reached(n.lan, "198.51.100.1:8081"); err == nil || !strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()) {
		t.Errorf("got %v, want nobody to listen any more", err)
	}

	p.Type("#capture-filter", "icmp")
	p.Type("#capture-seconds", "2")
	p.Click("#capture-start")
	p.Wait(`document.querySelector('#capture-said').textContent.startsWith('capturing')`)
	run(t, n.c1, "ping -n -q -c 20 -i 0.01 -s 1300 "+gatewayVPN)
	p.Wait(`document.querySelector('#capture-said').textContent.endsWith('KiB saved')`)
	if faults := p.Faults(); len(faults) > 0 {
		t.Errorf("console: %q", faults)
	}
	stop(t, n.srv)
	p.Wait(`document.querySelector('#state').textContent === 'no answer' && document.querySelector('#notice').innerText.includes('does not answer')`)
	n.startSecure(n.args...)
	p.Wait(fmt.Sprintf(`document.querySelector('#state').textContent === 'live' && document.querySelector('#notice').hidden && %s?.includes(%q)`, row("cam1"), addr))
	if _, err := n.gw.Run(fmt.Sprintf("%s/vpnsrv web --listen 0.0.0.0:8088 --state %s", bin, n.state)); err == nil || !strings.Contains(err.Error(), "ssh -L 8088:") {
		t.Errorf("a port for everybody: got %v", err)
	}
}
