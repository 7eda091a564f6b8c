package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A browser is told the URL by a file of the user alone, which is gone afterwards: arguments are seen by all users.
func TestOpenBrowser(t *testing.T) {
	const url = "http://127.0.0.1:1/?token=SECRET"
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", dir)
	script := "#!/bin/sh\necho \"$@\" > " + dir + "/args.new\nstat -c %a \"$1\" > " + dir + "/mode\ncat \"$1\" > " + dir + "/shown\nmv " + dir + "/args.new " + dir + "/args\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- openBrowser(ctx, url) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "args")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the browser was not started")
		}
	}
	got := map[string]string{}
	for _, name := range []string{"args", "mode", "shown"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = strings.TrimSpace(string(b))
	}
	if strings.Contains(got["args"], "SECRET") || got["mode"] != "600" || !strings.Contains(got["shown"], "url="+url) {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(got["args"]); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", got["args"], err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := openBrowser(t.Context(), url); err == nil || !strings.Contains(err.Error(), "open the URL yourself") {
		t.Errorf("without xdg-open: got %v", err)
	}
}
