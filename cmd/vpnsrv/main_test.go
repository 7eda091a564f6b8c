package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/cli/clitest"
)

func TestCommand(t *testing.T) {
	bin := clitest.Build(t, "vpnsrv")
	file := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(file, []byte("mtu = 1400\nlisen = []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	state, settings := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "vpnsrv.toml")
	const ended = "Completion ended with directive: ShellCompDirectiveNoFileComp"
	noGateway := `vpnsrv: no gateway is running with the state directory ` + state + `: start vpnsrv, or name another with --state`
	clitest.Check(t, bin, []clitest.Call{
		{Name: "init", Args: "init --state " + state + " --config " + settings + " --public gw.example", Stdout: "fingerprint    SHA256:"},
		{Name: "init again", Args: "init --state " + state + " --config " + settings, Stdout: "gateway.key was there already"},
		{Name: "init with an argument", Args: "init now", Status: 2, Stderr: `vpnsrv: got 1 arguments: write vpnsrv init`},
		{Name: "init with a wrong URL", Args: "init --public ftp://x", Status: 2, Stderr: `vpnsrv: --public: "ftp://x": unknown carrier "ftp": use ` + carrier.Schemes()},
		{Name: "its settings", Args: "--config " + settings + " --mtu 1", Status: 2, Stderr: `vpnsrv: --mtu: 1 is not between 576 and 65535`},
		{Name: "invite nobody", Args: "invite --state " + state, Status: 2, Stderr: `vpnsrv: got 0 arguments: write vpnsrv invite NAME`},
		{Name: "invite without a gateway", Args: "invite cam1 --state " + state, Status: 1, Stderr: noGateway},
		{Name: "invite for no time", Args: "invite cam1 --ttl 0s", Status: 2, Stderr: `vpnsrv: --ttl: 0s is too short: write for example 15m`},
		{Name: "invite with a wrong address", Args: "invite cam1 --ip x", Status: 2, Stderr: `vpnsrv: --ip: "x" is not an address: write it as 10.0.3.7`},
		{Name: "peer", Args: "peer", Status: 2, Stderr: `vpnsrv: say what to do: vpnsrv peer add, list, disable, enable or rm`},
		{Name: "peer add", Args: "peer add cam1", Status: 2, Stderr: `vpnsrv: got 1 arguments: write vpnsrv peer add NAME KEY`},
		{Name: "peer list", Args: "peer list --state " + state, Status: 1, Stderr: noGateway},
		{Name: "status", Args: "status --state " + state, Status: 1, Stderr: noGateway},
		{Name: "status for nobody", Nobody: true, Args: "status --state " + state, Status: 1, Stderr: `vpnsrv: the gateway's socket ` + state + `/control.sock may not be opened: run as root`},
		{Name: "reload", Args: "reload --state " + state, Status: 1, Stderr: noGateway},
		{Name: "key", Args: "key", Status: 2, Stderr: `vpnsrv: say what to do: vpnsrv key show, next or switch`},
		{Name: "key show", Args: "key show --key " + state + "/gateway.key", Stdout: "SHA256:"},
		{Name: "key switch without a gateway", Args: "key switch --state " + state, Status: 1, Stderr: `vpnsrv: who has heard of the next key? ` + strings.TrimPrefix(noGateway, "vpnsrv: ") + `; --force does without`},
		{Name: "key switch without a next one", Args: "key switch --force --key " + state + "/gateway.key", Status: 1, Stderr: `vpnsrv: there is no next key: 'vpnsrv key next' makes one: load key: open ` + state + `/gateway.key.next: no such file or directory`},
		{Name: "leases", Args: "leases --state " + state, Status: 1, Stderr: noGateway},
		{Name: "complete a session without a gateway", Args: "__completeNoDesc kick --state " + state + " 1", Stdout: ":4\n", Stderr: ended},
		{Name: "check", Args: "--check --config " + settings},
		{Name: "check, with a fault", Nobody: true, Args: "--check --config= --listen tcp://:2002?allow=tls", Status: 1, Stderr: `vpnsrv: listen on tcp://:2002: allow=tls needs a key: 'vpnsrv init' makes one`},
		{Name: "vtunnel by no carrier of it", Args: "--check --config= --vtunnel-listen quic://127.0.0.1", Status: 2, Stderr: `vpnsrv: --vtunnel-listen: "quic://127.0.0.1": vtunnel goes by vsock, unix or tcp: write vsock://:6666, or unix:///path`},
		{Name: "vtunnel for all the world", Args: "--check --config= --vtunnel-listen tcp://:6666", Status: 2, Stderr: `vpnsrv: --vtunnel-listen: "tcp://:6666": nothing is encrypted here: name an address, as in tcp://127.0.0.1:6666`},
		{Name: "capture without a gateway", Args: "capture --state " + state + " tcp port 80", Status: 1, Stderr: noGateway},
		{Name: "capture of half a packet", Args: "capture -c 0.5", Status: 2, Stderr: `vpnsrv: --count: "0.5" is not a whole number`},
		{Name: "kick", Args: "kick x", Status: 2, Stderr: `vpnsrv: "x" is not the number of a connection`},
		{Name: "help", Args: "--help", Stdout: "--push-route CIDR"},
		{Name: "version", Args: "--version", Stdout: "vpnsrv devel ("},
		{Name: "unknown flag", Args: "--lisen x", Status: 2, Stderr: `vpnsrv: unknown flag: --lisen (did you mean --listen?)`},
		{Name: "argument", Args: "start", Status: 2, Stderr: `vpnsrv: unexpected argument "start": all settings are flags: see vpnsrv --help`},
		{Name: "pool", Args: "--pool 10.0.0.1/16", Status: 2, Stderr: `vpnsrv: --pool: "10.0.0.1/16" has host bits set: write 10.0.0.0/16`},
		{Name: "unknown key", Args: "--config " + file, Status: 1, Stderr: `vpnsrv: ` + file + `:2: unknown key "lisen" (did you mean "listen"?)`},
		{Name: "no file", Args: "--config /none.toml", Status: 1, Stderr: `vpnsrv: --config: open /none.toml: no such file or directory`},
		{Name: "no root", Nobody: true, Status: 1, Stderr: `vpnsrv: needs CAP_NET_ADMIN to make the interface vpn0: run as root (sudo vpnsrv ...); or with --exit user, which needs neither rights nor an interface`},
		{Name: "usage before root", Nobody: true, Args: "--mtu 1", Status: 2, Stderr: `vpnsrv: --mtu: 1 is not between 576 and 65535`},
		{Name: "complete an exit", Args: "__completeNoDesc --exit k", Stdout: "kernel\nuser\n:4\n", Stderr: ended},
		{Name: "complete a profile", Args: "__completeNoDesc --profile g", Stdout: "gvproxy\n:4\n", Stderr: ended},
		{Name: "complete a directory", Args: "__completeNoDesc --publish-dir /", Stdout: ":16\n", Stderr: "Completion ended with directive: ShellCompDirectiveFilterDirs"},
		{Name: "complete a URL", Args: "__completeNoDesc --listen t", Stdout: "vsock://:2002\nunix:///\n:6\n", Stderr: "Completion ended with directive: ShellCompDirectiveNoSpace, ShellCompDirectiveNoFileComp"},
	})
	clitest.CheckCompletion(t, bin)
	t.Run("service", func(t *testing.T) {
		s := clitest.Start(t, nil, bin, "--config=", "--state", t.TempDir(), "--listen", "unix://"+filepath.Join(t.TempDir(), "s"))
		s.Await(t, "READY=1\nSTATUS=serving 10.0.0.0/16 by vpn0")
		s.Stop(t)
	})
}
