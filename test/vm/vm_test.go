package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Limits for one machine and for a host with its guest: several times what they take on two busy cores.
const (
	oneMachine  = 60 * time.Second
	twoMachines = 120 * time.Second
	// fetchTime is for the kernel package, 27 MB, when it is not in the cache yet.
	fetchTime = 5 * time.Minute
)

// TestTunnel runs vpnsrv and vpncli over each path that vsock has; README.md draws them.
func TestTunnel(t *testing.T) {
	kernel := needKernel(t)
	files := build(t, "../../cmd/vpnsrv", "../../cmd/vpncli", "./probe")
	t.Run("loopback", func(t *testing.T) {
		m := Machine{Script: script(t, "loopback.sh"), Files: files, Modules: []string{"vsock_loopback", "tun"}}
		succeed(t, kernel, &m, oneMachine)
	})
	for _, test := range []struct{ name, host, guest string }{
		{"guest dials host", script(t, "gateway.sh"), "peer=2\n" + script(t, "client.sh")},
		{"host dials guest", "peer=3\n" + script(t, "client.sh"), script(t, "gateway.sh")},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := hostWithGuest(test.host, test.guest, files)
			succeed(t, kernel, m, twoMachines)
		})
	}
}

// TestVtunnel has both ends of vtunnel in a host and in its guest.
func TestVtunnel(t *testing.T) {
	kernel := needKernel(t)
	files, text := build(t, "../../cmd/vpncli", "./probe"), script(t, "vtunnel.sh")
	m := hostWithGuest("own=2 peer=3 flags='-c 3'\n"+text, "own=3 peer=2 flags=\n"+text, files)
	succeed(t, kernel, m, twoMachines)
}

// TestPenguin has both ends of Penguin's VPN in a host and in its guest: unlike what hypervisors have in user space, this vsock knows a half-close.
func TestPenguin(t *testing.T) {
	kernel := needKernel(t)
	m := hostWithGuest(script(t, "penguin_host.sh"), script(t, "penguin_guest.sh"), build(t, "../../cmd/ferry-penguin", "./probe"))
	succeed(t, kernel, m, twoMachines)
}

// TestClock sets the date of a machine while a tunnel runs in it.
// exam: F15
func TestClock(t *testing.T) {
	kernel := needKernel(t)
	m := Machine{
		Script: script(t, "clock.sh"), Files: build(t, "../../cmd/vpnsrv", "../../cmd/vpncli", "./probe"),
		Modules: []string{"vsock_loopback", "tun"},
	}
	succeed(t, kernel, &m, 2*oneMachine)
}

// TestMachine checks the harness: without these, a broken one could let TestTunnel pass.
func TestMachine(t *testing.T) {
	kernel := needKernel(t)
	t.Run("output and status", func(t *testing.T) {
		host, _, err := run(t, kernel, &Machine{Script: "echo out; echo err >&2; uname -r; exit 3"}, oneMachine)
		if err != nil {
			t.Fatal(err)
		}
		if want := "out\nerr\n" + kernel.Release + "\n"; host.Status != 3 || !strings.Contains(host.Output, want) {
			t.Errorf("got status %d, output %q; want 3 and %q", host.Status, host.Output, want)
		}
	})
	t.Run("panic", func(t *testing.T) {
		host, _, err := run(t, kernel, &Machine{Script: "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"}, oneMachine)
		if err == nil || !strings.Contains(host.Console, "sysrq triggered crash") {
			t.Errorf("got error %v, console %q; want an error and the kernel's panic", err, host.Console)
		}
	})
	t.Run("time limit", func(t *testing.T) {
		_, _, err := run(t, kernel, &Machine{Script: "sleep 1000"}, time.Second)
		if err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
	})
	t.Run("no module", func(t *testing.T) {
		_, _, err := run(t, kernel, &Machine{Modules: []string{"no_such"}}, time.Second)
		if err == nil || !strings.Contains(err.Error(), "no module no_such") {
			t.Errorf("got %v, want an error that names the module", err)
		}
	})
	t.Run("host and guest", func(t *testing.T) {
		const echo, check = "probe echo vsock://:9 || exit 1\n", "probe check vsock://%:9 1000000 || exit 1\n"
		m := hostWithGuest(echo+strings.ReplaceAll(check, "%", "3")+"exit 4",
			strings.ReplaceAll(check, "%", "2")+echo+"exit 5", build(t, "./probe"))
		host, guest, err := run(t, kernel, m, twoMachines)
		if err != nil || host.Status != 4 || guest.Status != 5 {
			t.Errorf("got status %d of the host, %d of the guest, error %v; want 4, 5, none", host.Status, guest.Status, err)
		}
	})
}

func hostWithGuest(host, guest string, files []string) *Machine {
	return &Machine{
		Script: host, Files: files, Modules: []string{"tun"}, Memory: 1024,
		Guest: &Machine{Script: guest, Files: files, Modules: []string{"vmw_vsock_virtio_transport", "tun"}},
	}
}

// skipElsewhere skips a test that needs Debian's programs where there are none, or on demand.
func skipElsewhere(t *testing.T) {
	t.Helper()
	if os.Getenv("FERRY_VM") == "off" {
		t.Skip("FERRY_VM=off")
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skipf("the machines are built from parts of a Debian amd64 system, this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
}

// needKernel finds or fetches the kernel for a test that boots machines.
func needKernel(t *testing.T) *Kernel {
	t.Helper()
	skipElsewhere(t)
	ctx, cancel := context.WithTimeout(t.Context(), fetchTime)
	defer cancel()
	k, err := FindKernel(ctx, CacheDir())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// build compiles commands of this module, static, and returns their files.
func build(t *testing.T, folders ...string) []string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", append([]string{"build", "-ldflags", "-s -w", "-o", dir + "/"}, folders...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	var files []string
	for _, folder := range folders {
		files = append(files, filepath.Join(dir, filepath.Base(folder)))
	}
	return files
}

func script(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// succeed runs m and wants its script, and its guest's, to end with status 0.
func succeed(t *testing.T, k *Kernel, m *Machine, limit time.Duration) {
	t.Helper()
	host, guest, err := run(t, k, m, limit)
	if err != nil || host.Status != 0 || guest.Status != 0 {
		t.Errorf("got status %d, guest's %d, error %v; want 0, 0, none", host.Status, guest.Status, err)
	}
}

// run runs m for limit at most, and shows what it told if the test fails or with -v.
func run(t *testing.T, k *Kernel, m *Machine, limit time.Duration) (host, guest Report, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	host, guest, err = m.Run(ctx, k, t.TempDir())
	t.Logf("%.1f s in all\n%s%s", time.Since(start).Seconds(), shown("machine", host), shown("guest", guest))
	return host, guest, err
}

// shown is a report for a reader: all of the output, and the end of the console.
func shown(name string, r Report) string {
	const tail = 40
	var b strings.Builder
	console := strings.SplitAfter(r.Console, "\n")
	for _, line := range console[max(0, len(console)-tail):] {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(name + " console| " + line + "\n")
		}
	}
	for line := range strings.Lines(r.Output) {
		b.WriteString(name + "| " + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}
