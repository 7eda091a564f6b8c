package vm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// metaPackage depends on Debian's newest kernel for clouds: small, quick to boot, and with vsock,
// vhost_vsock, tun and kvm_amd as modules.
const metaPackage = "linux-image-cloud-amd64"

// A Kernel is an unpacked kernel package. It is not installed: no boot files of the machine change.
type Kernel struct {
	Release string // as uname -r prints it
	BzImage string // file: the kernel as packaged
	Image   string // file: the same uncompressed, for it would unpack itself slowly under emulation
	Modules string // folder with modules.dep
}

// CacheDir is where kernels are kept between runs: $FERRY_VM_CACHE, or a folder in /var/tmp.
func CacheDir() string {
	if dir := os.Getenv("FERRY_VM_CACHE"); dir != "" {
		return dir
	}
	return "/var/tmp/ferry-vm"
}

// FindKernel returns the newest kernel in the cache. If there is none it fetches one with apt-get,
// which needs a mirror and no privilege. Any number of processes may do so at the same time: a kernel
// is made in a folder of its own and takes its place by a rename.
func FindKernel(ctx context.Context, cache string) (*Kernel, error) {
	// The pattern leaves out folders that are being filled.
	have, err := filepath.Glob(filepath.Join(cache, "linux-image-*"))
	if err != nil {
		return nil, err
	}
	if len(have) > 0 {
		return openKernel(slices.MaxFunc(have, olderFolder))
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	name, err := newestPackage(ctx)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if err := fetch(ctx, name, tmp); err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, name)
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) { // there: another process was faster
		return nil, err
	}
	return openKernel(dir)
}

func olderFolder(a, b string) int {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	if errX != nil || errY != nil {
		return strings.Compare(a, b)
	}
	return x.ModTime().Compare(y.ModTime())
}

var dependsOnImage = regexp.MustCompile(`Depends: (linux-image-\S+)`)

// newestPackage returns the name of the package that metaPackage stands for at present.
func newestPackage(ctx context.Context) (string, error) {
	out, err := output(ctx, "", nil, "apt-cache", "depends", metaPackage)
	if err != nil || len(out) == 0 { // a fresh system has no package lists
		if _, err := output(ctx, "", nil, "apt-get", "update", "-qq"); err != nil {
			return "", err
		}
		if out, err = output(ctx, "", nil, "apt-cache", "depends", metaPackage); err != nil {
			return "", err
		}
	}
	m := dependsOnImage.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("apt-cache depends %s: names no kernel: is this Debian?", metaPackage)
	}
	return string(m[1]), nil
}

// fetch downloads the package name and makes of dir what openKernel expects.
func fetch(ctx context.Context, name, dir string) error {
	if _, err := output(ctx, dir, nil, "apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s: %d packages came, want 1", name, len(debs))
	}
	if _, err := output(ctx, dir, nil, "dpkg-deb", "-x", debs[0], dir); err != nil {
		return err
	}
	if err := os.Remove(debs[0]); err != nil {
		return err
	}
	k, err := openKernel(dir)
	if err != nil {
		return err
	}
	// The package has no modules.dep: its installation script would make it.
	base := strings.TrimSuffix(k.Modules, filepath.Join("/lib/modules", k.Release))
	if _, err := output(ctx, dir, nil, "depmod", "-b", base, k.Release); err != nil {
		return err
	}
	packed, err := os.ReadFile(k.BzImage)
	if err != nil {
		return err
	}
	image, err := unpackImage(ctx, packed)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", k.BzImage, err)
	}
	// MkdirTemp makes folders for one user; the cache serves all.
	return errors.Join(os.WriteFile(k.Image, image, 0o644), os.Chmod(dir, 0o755))
}

// openKernel looks at an unpacked package.
func openKernel(dir string) (*Kernel, error) {
	found, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%s holds %d kernels, want 1: remove it to have it fetched anew", dir, len(found))
	}
	k := &Kernel{BzImage: found[0], Image: filepath.Join(dir, "vmlinux")}
	k.Release = strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	for _, lib := range []string{"lib", "usr/lib"} { // Debian 12 and before, and later
		k.Modules = filepath.Join(dir, lib, "modules", k.Release)
		if _, err := os.Stat(k.Modules); err == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%s has no modules for kernel %s", dir, k.Release)
}

// Fields of the bzImage header (Documentation/arch/x86/boot.rst in the kernel's source).
const (
	setupSects    = 0x1f1 // 1 byte, sectors of 512 bytes before the protected-mode code, less the first
	headerMagic   = 0x202 // "HdrS"
	payloadOffset = 0x248 // 4 bytes, from the protected-mode code
	payloadLength = 0x24c // 4 bytes
)

// payloads are the formats that Debian has used, by their first bytes.
var payloads = []struct{ magic, ext string }{
	{"\x02\x21\x4c\x18", "lz4"},
	{"\xfd7zXZ", "xz"},
	{"\x28\xb5\x2f\xfd", "zst"},
	{"\x1f\x8b", "gz"},
}

// unpackImage returns the ELF file inside a bzImage.
func unpackImage(ctx context.Context, b []byte) ([]byte, error) {
	if len(b) < payloadLength+4 || string(b[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	start := (uint64(b[setupSects])+1)*512 + uint64(binary.LittleEndian.Uint32(b[payloadOffset:]))
	end := start + uint64(binary.LittleEndian.Uint32(b[payloadLength:]))
	if end > uint64(len(b)) || end-start < 4 {
		return nil, fmt.Errorf("payload [%d:%d] lies outside of the %d bytes", start, end, len(b))
	}
	payload := b[start:end]
	for _, p := range payloads {
		if !bytes.HasPrefix(payload, []byte(p.magic)) {
			continue
		}
		if p.ext != "gz" {
			payload = payload[:len(payload)-4] // the unpacked size, which the build appends to formats without one
		}
		elf, err := decompress(ctx, p.ext, payload)
		if err == nil && !bytes.HasPrefix(elf, []byte("\x7fELF")) {
			err = errors.New("payload is not an ELF file")
		}
		return elf, err
	}
	return nil, fmt.Errorf("unknown compression, first bytes %x", payload[:4])
}
