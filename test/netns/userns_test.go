package netns

import (
	"os"
	"os/exec"
	"testing"
)

// TestUserNamespace runs some tests again as root of a user namespace, who is nobody outside. Those
// with tcpdump are not among them: it wants to be another user.
func TestUserNamespace(t *testing.T) {
	if out, err := exec.Command("unshare", "-Urnm", "ip", "tuntap", "add", "ferry0", "mode", "tun").CombinedOutput(); err != nil {
		t.Skipf("no interfaces in user namespaces here: %v: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "-Urnm", "--kill-child", self, "-test.run", "^(TestStatic|TestGatewayRestart|TestCleanUp)$", "-test.v")
	cmd.Env = append(os.Environ(), binDir+"="+bin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
