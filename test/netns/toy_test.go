package netns

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
)

// toyLines are what docs/carriers.md says that a carrier needs beside its package: each goes behind a line that is there once.
var toyLines = []struct{ file, behind, line string }{
	{"internal/carrier/endpoint.go", `	"tcp":  {},`, `	"toy":  {},`},
	{"internal/gateway/registry.go", `	"ferry/internal/carrier/tcp"`, `	"ferry/internal/carrier/toy"`},
	{"internal/gateway/registry.go", `	"tcp":   stream(tcp.Listen, nil),`, `	"toy":   stream(toy.Listen, nil),`},
	{"internal/client/carriers_full.go", `	"ferry/internal/carrier/ssh"`, `	"ferry/internal/carrier/toy"`},
	{"internal/client/carriers_full.go", `	"ssh":  {dial: secureShell, class: failover.ClassSSH},`, `	"toy":  {dial: stream(toy.Dial), class: failover.ClassSSH},`},
}

// withToy returns the overlay (go help build) of a Ferry that has one carrier more, and where Ferry is.
func withToy(t *testing.T) (overlay, root string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, files := t.TempDir(), map[string]string{}
	for _, name := range []string{"toy.go", "toy_test.go"} {
		files[filepath.Join(root, "internal/carrier/toy", name)] = filepath.Join(root, "test/netns/testdata/toy", name)
	}
	texts := map[string]string{}
	for _, l := range toyLines {
		text := texts[l.file]
		if text == "" {
			text = string(readFile(t, filepath.Join(root, l.file)))
		}
		if strings.Count(text, l.behind+"\n") != 1 {
			t.Fatalf("%s: the line %q is not there once: is docs/carriers.md still right?", l.file, l.behind)
		}
		texts[l.file] = strings.Replace(text, l.behind+"\n", l.behind+"\n"+l.line+"\n", 1)
	}
	for file, text := range texts {
		copied := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		writeFile(t, copied, text)
		files[filepath.Join(root, file)] = copied
	}
	b, err := json.Marshal(map[string]any{"Replace": files})
	if err != nil {
		t.Fatal(err)
	}
	overlay = filepath.Join(dir, "overlay.json")
	writeFile(t, overlay, string(b))
	return overlay, root
}

// goWith runs a command of go with an overlay.
func goWith(t *testing.T, overlay, root, command string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{command, "-overlay", overlay}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	runIn(t, root, cmd)
}

func runIn(t *testing.T, dir string, cmd *exec.Cmd) {
	t.Helper()
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// TestToyCarrier: a carrier is a package and a line in each registry. With those it is listened on, announced, dialled and
// switched to.
func TestToyCarrier(t *testing.T) {
	t.Parallel()
	overlay, root := withToy(t)
	with := t.TempDir()
	if err := os.Chmod(with, 0o755); err != nil { // for the user nobody
		t.Fatal(err)
	}
	goWith(t, overlay, root, "build", "-o", with+"/", "./cmd/vpnsrv", "./cmd/vpncli")
	// vet wants a directory that is there.
	goWith(t, overlay, root, "test", "-vet=off", "-c", "-o", filepath.Join(with, "exam"), "./internal/carrier/toy")
	runIn(t, with, exec.Command("./exam")) // that of carriertest

	n := newNetwork(t)
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, n.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, n.state, file))
	n.srv = start(t, n.gw, filepath.Join(with, "vpnsrv"), "--config", file, "--listen", "tcp://:2002?allow=tls", "--listen", "toy://:2003")
	await(t, n.srv, "msg=serving", 0)
	state := n.join(n.c1, "cam1")
	dev := &device{start(t, n.c1, alone([]string{filepath.Join(with, "vpncli"), "--json", "--state", state, "-s", "toy://" + gatewayC1 + ":2003"})...), t, n.c1}
	addr := dev.waitConnected()
	if got := dev.way(); !strings.HasPrefix(got, "toy://") {
		t.Errorf("connected by %q", got)
	}
	ping(t, n.c1, gatewayVPN, 3)
	run(t, n.gw, fmt.Sprintf("ping -n -q -c 3 -i 0.05 -s 8000 %s", addr))
	transfer(t, n.c1, n.gw, gatewayVPN, 8<<20, 30*time.Second)
	stop(t, dev.Proc)

	// Who knows the gateway by TCP alone hears of the other way, and goes there when TCP is cut.
	dev = &device{start(t, n.c1, alone([]string{filepath.Join(with, "vpncli"), "--json", "--state", state})...), t, n.c1}
	dev.waitConnected()
	up := newNumberedStream(t, n.c1, n.gw, gatewayVPN, 5*time.Millisecond)
	until(t, patience, "toy stands by", func() bool {
		return strings.Contains(run(t, n.c1, with+"/vpncli status"), "toy://"+gatewayC1+":2003: standby")
	})
	run(t, n.gw, "nft add table ip cut")
	run(t, n.gw, "nft add chain ip cut in { type filter hook input priority 0 ; }")
	run(t, n.gw, "nft add rule ip cut in tcp dport 2002 drop")
	dev.goesBy(patience, "toy")
	dev.event(client.EventSwitched, 0)
	time.Sleep(500 * time.Millisecond) // packets by the other way
	if lost, doubled, reordered, stall := up.end(); lost+doubled+reordered > 0 {
		t.Errorf("of %d packets %d are lost, %d came twice, %d were overtaken; the longest pause was %s", up.sent, lost, doubled, reordered, stall)
	} else {
		t.Logf("%d packets, none lost; the longest pause %s", up.sent, stall.Round(time.Millisecond))
	}
}
