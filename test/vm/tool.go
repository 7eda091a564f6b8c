package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// packages names the Debian package of every program used here. scripts/deps.sh installs them.
var packages = map[string]string{
	"apt-cache":          "apt",
	"apt-get":            "apt",
	"busybox":            "busybox-static",
	"depmod":             "kmod",
	"dpkg-deb":           "dpkg",
	"gzip":               "gzip",
	"ldd":                "libc-bin",
	"lz4":                "lz4",
	"qemu-system-x86_64": "qemu-system-x86",
	"xz":                 "xz-utils",
	"zstd":               "zstd",
}

// tool finds a program; the error names the package to install.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	// The PATH of a user often leaves out the folder of depmod.
	for _, path := range []string{"/usr/sbin/" + name, "/sbin/" + name} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: apt-get install %s", name, packages[name])
}

// output runs a program in dir with input and returns what it writes.
func output(ctx context.Context, dir string, input []byte, name string, args ...string) ([]byte, error) {
	path, err := tool(name)
	if err != nil {
		return nil, err
	}
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, bytes.NewReader(input), &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.Bytes(), nil
}

// decompress unpacks data with the program for the file name suffix ext (gz, xz, zst or lz4).
func decompress(ctx context.Context, ext string, data []byte) ([]byte, error) {
	program := map[string]string{"gz": "gzip", "xz": "xz", "zst": "zstd", "lz4": "lz4"}[ext]
	if program == "" {
		return nil, fmt.Errorf("decompress %d bytes: unknown format %q", len(data), ext)
	}
	return output(ctx, "", data, program, "-d", "-c")
}
