package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// FuzzFile reads arbitrary text as the file of either program: it is taken, or refused with an error that
// names the file, in one line.
// exam: U6
func FuzzFile(f *testing.F) {
	for _, name := range []string{"vpnsrv.toml", "vpncli.toml"} {
		text, err := os.ReadFile(filepath.Join(samples, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
		f.Add(offMark.ReplaceAllString(string(text), "$1"))
	}
	f.Add("[reserved]\n'a\\nb' = '10.0.0.9'")
	f.Add("[sites]\n'10.1.7.0/24' = '10.0.0.9'\nreserved = {a = '10.1.0.9'}")
	f.Add("version = 2\nidle_timeout = '1ns'")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		file, err := os.CreateTemp(dir, "f")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
		file.Close()
		for _, load := range []func() error{
			func() error {
				fs := pflag.NewFlagSet("vpnsrv", pflag.ContinueOnError)
				g := NewGateway(fs)
				if err := fs.Parse([]string{"--state=" + dir, "--config=" + file.Name()}); err != nil {
					return err
				}
				_, err := g.Load()
				return err
			},
			func() error {
				fs := pflag.NewFlagSet("vpncli", pflag.ContinueOnError)
				c := NewClient(fs)
				if err := fs.Parse([]string{"--state=" + dir, "--server=gw", "--config=" + file.Name()}); err != nil {
					return err
				}
				_, err := c.Load()
				return err
			},
		} {
			if err := load(); err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: an error of several lines: %q", text, err)
			}
		}
	})
}
