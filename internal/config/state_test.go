package config

import (
	"os"
	"testing"

	"ferry/internal/gateway/settings"
)

// The state of a user's gateway is in that user's home, unless the command line or the file says another place.
func TestUserState(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/home/u/state")
	own := "/home/u/state/ferry"
	if os.Geteuid() == 0 {
		own = settings.DefaultStateDir
	}
	file := write(t, "vpnsrv.toml", "exit = \"user\"\nstate = \"/srv/ferry\"\n")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--config=", "--exit", "user"}, own},
		{[]string{"--config=", "--exit", "user", "--state", "/srv/flag"}, "/srv/flag"},
		{[]string{file}, "/srv/ferry"},
		{[]string{file, "--state", "/srv/flag"}, "/srv/flag"},
	} {
		if c, err := loadGateway(t, tt.args...); err != nil || c.StateDir != tt.want {
			t.Errorf("%q: got %s, %v, want %s", tt.args, c.StateDir, err, tt.want)
		}
	}
}
