// Package ferry holds the tests of the whole: which package may import which, and that each says what
// it is.
package ferry

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// arrows are the packages of Ferry that a package may import, besides those from which it is built.
// ARCHITECTURE.md draws them.
var arrows = map[string][]string{
	"internal/packet":            {},
	"internal/proto":             {"internal/packet"},
	"internal/addrpool":          {},
	"internal/keepalive":         {},
	"internal/failover":          {},
	"internal/buffer":            {},
	"internal/session":           {"internal/buffer", "internal/proto"},
	"internal/router":            {"internal/buffer", "internal/packet", "internal/policy", "internal/proto"},
	"internal/multipath":         {"internal/buffer", "internal/proto", "internal/router", "internal/session"},
	"internal/carrier":           {},
	"internal/carrier/ssh":       {"internal/carrier", "internal/identity"},
	"internal/carrier/connectip": {"internal/carrier", "internal/carrier/datagram", "internal/carrier/quic", "internal/carrier/ws", "internal/identity", "internal/proto"},
	"internal/carrier/datagram":  {"internal/carrier", "internal/identity", "internal/proto", "internal/session"},
	"internal/carrier/dns":       {"internal/carrier", "internal/carrier/datagram", "internal/carrier/netsock", "internal/carrier/polling"},
	"internal/carrier/icmp":      {"internal/carrier", "internal/carrier/datagram", "internal/carrier/netsock", "internal/carrier/polling", "internal/packet"},
	"internal/carrier/netsock":   {"internal/carrier"},
	"internal/carrier/polling":   {"internal/carrier/datagram"},
	"internal/carrier/quic":      {"internal/carrier", "internal/carrier/netsock", "internal/identity", "internal/proto"},
	"internal/carrier/tcp":       {"internal/carrier"},
	"internal/carrier/tls":       {"internal/carrier", "internal/identity"},
	"internal/carrier/udp":       {"internal/carrier", "internal/carrier/datagram", "internal/carrier/netsock", "internal/identity"},
	"internal/carrier/unix":      {"internal/carrier"},
	"internal/carrier/vsock":     {"internal/carrier"},
	"internal/carrier/ws":        {"internal/carrier"},
	"internal/cmdline":           {},
	"internal/confine":           {},
	"internal/durable":           {},
	"internal/leasestore":        {"internal/addrpool", "internal/durable"},
	"internal/identity":          {"internal/durable", "internal/proto"},
	"internal/api":               {"internal/carrier", "internal/carrier/unix", "internal/durable", "internal/flowlist", "internal/publish"},
	"internal/api/gvproxy":       {"internal/api/gvproxy/endpoint", "internal/carrier", "internal/carrier/tcp", "internal/carrier/unix", "internal/carrier/vsock", "internal/forward", "internal/l2port", "internal/nameserver"},
	"internal/metrics":           {"internal/api"},
	"internal/capture":           {"internal/capture/filter", "internal/capture/pcap", "internal/packet", "internal/proto", "internal/router"},
	"internal/capture/filter":    {"internal/packet"},
	"internal/capture/pcap":      {"internal/packet"},
	"internal/web":               {"internal/api"},
	"internal/peerstore":         {"internal/durable", "internal/identity", "internal/proto"},
	"internal/hostdns":           {},
	"internal/hostnet":           {"internal/flowlist", "internal/hostdns"},
	"internal/policy":            {},
	"internal/tun":               {"internal/packet", "internal/proto"},
	"internal/netstack":          {"internal/buffer", "internal/flowlist", "internal/hostnet", "internal/packet", "internal/proto", "internal/relay", "internal/router"},
	"internal/nameserver":        {"internal/carrier"},
	"internal/proxy":             {"internal/carrier", "internal/relay"},
	"internal/forward":           {"internal/carrier", "internal/carrier/unix", "internal/flowlist", "internal/relay"},
	"internal/relay":             {},
	"internal/flowlist":          {},
	"internal/publish":           {"internal/proto"},
	"internal/l2port":            {"internal/carrier", "internal/carrier/unix", "internal/l2port/ether", "internal/proto"},
	"internal/l2port/ether":      {"internal/packet", "internal/proto"},
	"internal/exit":              {"internal/hostnet", "internal/proto", "internal/router", "internal/tun"},
	"internal/admission":         {},
	"internal/background":        {},
	"internal/penguin":           {"internal/buffer", "internal/capture/pcap", "internal/carrier", "internal/carrier/unix", "internal/carrier/vsock", "internal/forward", "internal/netstack", "internal/packet", "internal/penguin/wire", "internal/relay", "internal/tun"},
	"internal/penguin/wire":      {},
	"internal/vtunnel":           {"internal/admission", "internal/carrier", "internal/carrier/tcp", "internal/carrier/unix", "internal/carrier/vsock", "internal/relay"},
	"internal/netadmin":          {"internal/carrier", "internal/carrier/netsock", "internal/carrier/unix", "internal/confine", "internal/durable", "internal/flowlist", "internal/hostnet", "internal/policy", "internal/tun"},
	"internal/gateway/settings":  {"internal/admission", "internal/forward", "internal/identity", "internal/policy", "internal/proto", "internal/publish"},
	"internal/gateway": {
		"internal/addrpool", "internal/admission", "internal/api", "internal/api/gvproxy", "internal/api/gvproxy/endpoint", "internal/buffer", "internal/capture", "internal/capture/filter", "internal/carrier", "internal/carrier/connectip", "internal/carrier/quic", "internal/carrier/ssh", "internal/carrier/tcp", "internal/carrier/tls", "internal/carrier/datagram", "internal/carrier/dns", "internal/carrier/icmp", "internal/carrier/udp", "internal/carrier/unix",
		"internal/carrier/vsock", "internal/carrier/ws", "internal/durable", "internal/flowlist", "internal/forward", "internal/gateway/settings", "internal/hostnet", "internal/identity", "internal/keepalive",
		"internal/l2port", "internal/l2port/ether", "internal/leasestore", "internal/metrics", "internal/multipath", "internal/nameserver", "internal/packet", "internal/peerstore", "internal/policy", "internal/proto", "internal/publish", "internal/router", "internal/session", "internal/web",
	},
	"internal/client": {
		"internal/buffer", "internal/carrier", "internal/carrier/connectip", "internal/carrier/dns", "internal/carrier/icmp", "internal/carrier/quic", "internal/carrier/ssh", "internal/carrier/tcp", "internal/carrier/tls", "internal/carrier/udp", "internal/carrier/unix", "internal/carrier/vsock", "internal/carrier/ws",
		"internal/durable", "internal/failover", "internal/forward", "internal/hostdns", "internal/hostnet", "internal/identity", "internal/keepalive", "internal/multipath", "internal/policy",
		"internal/proto", "internal/publish", "internal/router", "internal/session",
	},

	"internal/api/gvproxy/endpoint": {"internal/carrier"},

	"internal/carrier/carriertest": {"internal/carrier", "internal/proto"}, // tests only

	"internal/config":      {"internal/admission", "internal/api/gvproxy/endpoint", "internal/carrier", "internal/client", "internal/forward", "internal/gateway/settings", "internal/identity", "internal/l2port", "internal/policy", "internal/proto", "internal/publish", "internal/vtunnel"},
	"internal/cli":         {"internal/cmdline", "internal/config", "internal/confine", "internal/durable", "internal/netadmin", "internal/proto"},
	"internal/cli/clitest": {"internal/cli"}, // tests only
	"cmd/vpnsrv":           {"internal/api", "internal/api/gvproxy/endpoint", "internal/capture/pcap", "internal/carrier", "internal/cli", "internal/cmdline", "internal/config", "internal/confine", "internal/durable", "internal/exit", "internal/flowlist", "internal/forward", "internal/gateway", "internal/gateway/settings", "internal/identity", "internal/l2port", "internal/netadmin", "internal/netstack", "internal/publish", "internal/vtunnel", "internal/web"},
	"cmd/vpncli":           {"internal/background", "internal/carrier", "internal/cli", "internal/client", "internal/cmdline", "internal/config", "internal/confine", "internal/durable", "internal/exit", "internal/failover", "internal/forward", "internal/identity", "internal/netadmin", "internal/netstack", "internal/proxy", "internal/vtunnel"},
	"cmd/ferry-penguin":    {"internal/background", "internal/cmdline", "internal/penguin"},
	"bench":                {"internal/carrier", "test/lab", "test/wire"},
	"test/browser":         {},
	"test/service":         {},
	"test/hypervisor":      {},
	"test/lab":             {},
	"test/rawvpn":          {},
	"test/tools/connectip": {},
	"test/tools/exam":      {},
	"test/tools/mutate":    {},
	"test/tools/rawvpn":    {"test/rawvpn"},
	"test/tools/wire":      {"test/lab", "test/wire"},
	"test/wire":            {},
}

// pure packages decide without doing: what they must not import. router counts and locks, so sync is
// its own affair.
var pure = []string{"internal/packet", "internal/policy", "internal/proto", "internal/publish", "internal/addrpool", "internal/keepalive", "internal/session", "internal/failover", "internal/l2port/ether", "internal/capture/filter"}

var impure = []string{"net", "os", "io", "log", "log/slog", "sync", "context", "syscall", "golang.org/x/sys/unix"}

// sole importers of libraries that belong into one room.
var sole = map[string]string{
	"github.com/vishvananda/netlink":    "internal/hostnet",
	"github.com/google/nftables":        "internal/hostnet",
	"github.com/godbus/dbus/v5":         "internal/hostdns",
	"golang.zx2c4.com/wireguard/tun":    "internal/tun",
	"github.com/mdlayher/vsock":         "internal/carrier/vsock",
	"github.com/coder/websocket":        "internal/carrier/ws",
	"golang.org/x/net/proxy":            "internal/carrier/ws",
	"golang.org/x/net/http/httpproxy":   "internal/carrier/ws",
	"github.com/gaissmai/bart":          "internal/router",
	"gvisor.dev/gvisor/pkg/tcpip/stack": "internal/netstack",
	"github.com/spf13/cobra":            "internal/cmdline",
	"golang.org/x/crypto/ssh":           "internal/carrier/ssh internal/api/gvproxy",
	"github.com/quic-go/quic-go":        "internal/carrier/quic internal/carrier/connectip test/tools/connectip",
	"github.com/quic-go/quic-go/http3":  "internal/carrier/connectip",
	"github.com/quic-go/connect-ip-go":  "test/tools/connectip",
	"github.com/miekg/dns":              "internal/nameserver",
	"github.com/chromedp/chromedp":      "test/browser",
}

// limits on size: what is longer may hold two ideas. Tables and tests may be long.
const (
	maxFile     = 500 // lines
	maxFunction = 80
)

// source calls f for each Go file that is not a test.
func source(t *testing.T, f func(dir, path string, file *ast.File, fset *token.FileSet)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "tools" && path == "tools" || strings.HasPrefix(d.Name(), ".") && path != "."):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(filepath.Dir(path)), path, file, fset)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestArrows(t *testing.T) {
	seen := map[string]bool{}
	source(t, func(dir, path string, file *ast.File, _ *token.FileSet) {
		if strings.HasPrefix(dir, "test/vm") {
			return // programs for a machine of their own
		}
		seen[dir] = true
		allowed, known := arrows[dir]
		if !known {
			t.Errorf("%s: package is not in the table of arrows", dir)
		}
		for _, spec := range file.Imports {
			name := strings.Trim(spec.Path.Value, `"`)
			if own, ok := strings.CutPrefix(name, "ferry/"); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s", path, own)
			}
			if slices.Contains(pure, dir) && slices.Contains(impure, name) {
				t.Errorf("%s is pure and imports %s", path, name)
			}
			if room, ok := sole[name]; ok && !slices.Contains(strings.Fields(room), dir) {
				t.Errorf("%s imports %s, which belongs into %s", path, name, room)
			}
		}
	})
	for dir := range maps.Keys(arrows) {
		if !seen[dir] {
			t.Errorf("%s is in the table of arrows and has no file", dir)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	source(t, func(dir, _ string, file *ast.File, _ *token.FileSet) {
		documented[dir] = documented[dir] || file.Doc != nil
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file says what the package is", dir)
		}
	}
}

func TestSizes(t *testing.T) {
	source(t, func(_, path string, file *ast.File, fset *token.FileSet) {
		if n := fset.Position(file.End()).Line; n > maxFile {
			t.Errorf("%s has %d lines, more than %d", path, n, maxFile)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line; n > maxFunction {
				t.Errorf("%s: %s has %d lines, more than %d", path, f.Name.Name, n, maxFunction)
			}
		}
	})
}

// TestFuzzTargetsHaveSeeds: a fuzz target without a seed tests nothing in an ordinary run.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	out, err := exec.Command("grep", "-rlE", "--include=*_test.go", "^func Fuzz", "internal").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Fuzz") && !addsSeed(f) {
				t.Errorf("%s: %s has no seed", path, f.Name.Name)
			}
		}
	}
}

// addsSeed reports whether f calls Add, or hands its *testing.F to a function that may.
func addsSeed(f *ast.FuncDecl) (found bool) {
	param := f.Type.Params.List[0].Names[0].Name
	ast.Inspect(f.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Add" {
			found = true
		}
		for _, arg := range call.Args {
			if id, ok := arg.(*ast.Ident); ok && id.Name == param {
				found = true
			}
		}
		return true
	})
	return found
}
