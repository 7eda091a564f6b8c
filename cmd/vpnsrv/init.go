package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ferry/internal/carrier"
	"ferry/internal/cli"
	"ferry/internal/cmdline"
	"ferry/internal/config"
	"ferry/internal/durable"
	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
)

func initCommand() *cmdline.Command {
	var state, file string
	var public []string
	cmd := &cmdline.Command{
		Use:   "init",
		Short: "Make the gateway's key, and a configuration that wants one of every client",
		Long: `init makes the gateway's key and a configuration in which the network listeners let in devices
that are known by their keys, and nobody else. It changes nothing that is there already.`,
		Args: cli.Args(),
		RunE: func(cmd *cmdline.Command, _ []string) error {
			return initialise(cmd.OutOrStdout(), state, file, public)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&state, "state", settings.DefaultStateDir, "`directory` for the key, and for what the gateway keeps")
	fs.StringVar(&file, "config", config.DefaultFile("vpnsrv"), "`file` to write the configuration to")
	fs.StringArrayVar(&public, "public", nil, "`URL` by which devices will find this gateway; repeatable (default: the addresses of this host)")
	return cmd
}

func initialise(w io.Writer, state, file string, public []string) error {
	state, err := filepath.Abs(state)
	if err != nil {
		return err
	}
	for _, url := range public {
		if _, err := carrier.ParseDial(url, 0); err != nil {
			return &config.UsageError{Err: fmt.Errorf("--public: %w", err)}
		}
	}
	key, err := makeKey(w, filepath.Join(state, "gateway.key"))
	if err != nil {
		return err
	}
	// There is no secret in it, and a service may run as another user.
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	err = durable.Create(file, []byte(settingsText(state, public)))
	if err == nil {
		err = os.Chmod(file, 0o644)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		fmt.Fprintf(w, "configuration  %s is there already: see that it has\n%s", file, indented(settingsText(state, public)))
	case err != nil:
		return err
	default:
		fmt.Fprintf(w, "configuration  %s\n", file)
	}
	option := ""
	if file != config.DefaultFile("vpnsrv") {
		option = " --config " + file
	}
	fmt.Fprintf(w, `fingerprint    %s

Start it:          vpnsrv%s
Invite a device:   vpnsrv invite NAME%s
`, key.Public().Pin(), option, stateOption(state))
	return nil
}

func stateOption(state string) string {
	if state == settings.DefaultStateDir {
		return ""
	}
	return " --state " + state
}

func makeKey(w io.Writer, path string) (identity.Key, error) {
	key, err := identity.LoadKey(path)
	if err == nil {
		fmt.Fprintf(w, "key            %s was there already\n", path)
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := durable.MakeDir(filepath.Dir(path)); err != nil {
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w: run as root, or name another directory with --state", err)
		}
		return key, err
	}
	key = identity.NewKey()
	fmt.Fprintf(w, "key            %s\n", path)
	return key, key.Save(path)
}

// settings are the lines of a configuration that lets in known devices only.
func settingsText(state string, public []string) string {
	var b strings.Builder
	b.WriteString(`# Made by 'vpnsrv init'. What else can be set: vpnsrv --help, and configs/vpnsrv.toml of the sources.

# Devices come in by TCP, with a key that this gateway knows. For those that do not get out by it add "udp://:2002",
# "wss://:443", "ssh://:2022" or "quic://:2003": they find out by themselves what there is. For the machine's own guests
# add for example "vsock://:2002?allow=both".
listen = ["tcp://:2002?allow=tls"]

`)
	fmt.Fprintf(&b, "# The gateway's key: whoever has it is this gateway.\nkey = %q\nstate = %q\n", filepath.Join(state, "gateway.key"), state)
	if len(public) > 0 {
		fmt.Fprintf(&b, "\n# Where devices find this gateway.\npublic = [\"%s\"]\n", strings.Join(public, `", "`))
	}
	return b.String()
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" && !strings.HasPrefix(line, "#") {
			b.WriteString("    " + line)
		}
	}
	return b.String()
}
