package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPublishing(t *testing.T) {
	dir := t.TempDir()
	g, err := loadGateway(t, "--publish=cam1", "--publish=10.0.3.0/24", "--publish-dir="+dir)
	if err != nil || fmt.Sprint(g.Publish) != "{false [10.0.3.0/24] [cam1]}" || g.PublishDir != dir {
		t.Errorf("got %+v, %q, %v", g.Publish, g.PublishDir, err)
	}
	c, err := loadClient(t, "-s", "gw", "--publish=auto,tcp:80")
	if err != nil || !c.Publish.Auto || len(c.Publish.Ports) != 1 {
		t.Errorf("got %+v, %v", c.Publish, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"--publish=192.168.0.0/24":          "nobody is there",
		"--publish=10.0.3.1/24":             "host bits",
		"--publish=a b":                     "names no client",
		"--publish-dir=" + dir + "/nothing": "make the directory first",
		"--publish-dir=" + dir + "/file":    "no directory",
	} {
		if _, err := loadGateway(t, flag); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--publish") {
			t.Errorf("%s: got %v, want %q", flag, err, want)
		}
	}
	if _, err := loadClient(t, "-s", "gw", "--publish=everything"); err == nil || !strings.Contains(err.Error(), "tcp:80") {
		t.Errorf("got %v", err)
	}
}

// Maps of the environment count unless the configuration has some; a fault in either is an error that names it.
func TestPenguinMapsOfTheEnvironment(t *testing.T) {
	const toml = "publish_maps = \"tcp:1:0.0.0.0:1\"\n"
	for _, tt := range []struct{ env, file, want, err string }{
		{"tcp:8080:192.168.0.1:80", "", "[tcp:8080:192.168.0.1:80]", ""},
		{"tcp:8080:192.168.0.1:80", toml, "[tcp:1:0.0.0.0:1]", ""},
		{"", toml, "[tcp:1:0.0.0.0:1]", ""},
		{"tcp:8080", "", "", "IGLOO_VPN_PORT_MAPS"},
		{"", "publish_maps = \"tcp:1\"\n", "", "publish_maps"},
	} {
		t.Setenv("IGLOO_VPN_PORT_MAPS", tt.env)
		g, err := loadGateway(t, "--config="+strings.TrimPrefix(write(t, "vpnsrv.toml", tt.file), "--config="))
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%+v: got %v", tt, err)
			}
		case err != nil || fmt.Sprint(g.PublishMaps) != tt.want:
			t.Errorf("%+v: got %v, %v", tt, g.PublishMaps, err)
		}
	}
}
