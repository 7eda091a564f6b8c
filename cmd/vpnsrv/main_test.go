package main

import (
	"os"
	"path/filepath"
	"testing"

	"ferry/internal/cli/clitest"
)

func TestCommand(t *testing.T) {
	bin := clitest.Build(t, "vpnsrv")
	file := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(file, []byte("mtu = 1400\nlisen = []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	clitest.Check(t, bin, []clitest.Call{
		{Name: "help", Args: "--help", Stdout: "--push-route CIDR"},
		{Name: "version", Args: "--version", Stdout: "vpnsrv devel ("},
		{Name: "unknown flag", Args: "--lisen x", Status: 2, Stderr: `vpnsrv: unknown flag: --lisen (did you mean --listen?)`},
		{Name: "argument", Args: "start", Status: 2, Stderr: `vpnsrv: unexpected argument "start": all settings are flags: see vpnsrv --help`},
		{Name: "pool", Args: "--pool 10.0.0.1/16", Status: 2, Stderr: `vpnsrv: --pool: "10.0.0.1/16" has host bits set: write 10.0.0.0/16`},
		{Name: "unknown key", Args: "--config " + file, Status: 1, Stderr: `vpnsrv: ` + file + `:2: unknown key "lisen" (did you mean "listen"?)`},
		{Name: "no file", Args: "--config /none.toml", Status: 1, Stderr: `vpnsrv: --config: open /none.toml: no such file or directory`},
		{Name: "no root", Nobody: true, Status: 1, Stderr: `vpnsrv: needs CAP_NET_ADMIN to make the interface vpn0: run as root (sudo vpnsrv ...)`},
		{Name: "usage before root", Nobody: true, Args: "--mtu 1", Status: 2, Stderr: `vpnsrv: --mtu: 1 is not between 576 and 65535`},
		{Name: "complete a URL", Args: "__completeNoDesc --listen t", Stdout: "vsock://:2002\nunix:///\n:6\n", Stderr: "Completion ended with directive: ShellCompDirectiveNoSpace, ShellCompDirectiveNoFileComp"},
	})
	clitest.CheckCompletion(t, bin)
	t.Run("service", func(t *testing.T) {
		s := clitest.Start(t, nil, bin, "--state", t.TempDir(), "--listen", "unix://"+filepath.Join(t.TempDir(), "s"))
		s.Await(t, "READY=1\nSTATUS=serving 10.0.0.0/16 by vpn0")
		s.Stop(t)
	})
}
