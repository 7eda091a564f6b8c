package vm

import (
	"bytes"
	"context"
	"debug/elf"
	_ "embed"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// initScript is /init of every machine.
//
//go:embed init.sh
var initScript []byte

// library is /lib.sh, for scripts to source.
//
//go:embed lib.sh
var library []byte

// writeRoot writes the initramfs of m: uncompressed, for emulation unpacks slowly.
func (m *Machine) writeRoot(ctx context.Context, k *Kernel, w io.Writer) error {
	a := NewArchive(w)
	if err := addBusybox(ctx, a); err != nil {
		return err
	}
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "root", "work"} {
		a.Dir(dir)
	}
	a.Symlink("sbin", "bin")
	a.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	a.File("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	a.File("init", 0o755, initScript)
	a.File("lib.sh", 0o644, library)
	a.File("script", 0o644, []byte(m.Script))
	for _, src := range m.Files {
		a.Copy("work/"+path.Base(src), src)
	}
	if err := addModules(ctx, a, k, m.modules()); err != nil {
		return err
	}
	if m.Guest != nil {
		if err := addGuest(ctx, a, k, m.Guest); err != nil {
			return err
		}
	}
	return a.Close()
}

func addBusybox(ctx context.Context, a *Archive) error {
	file, err := tool("busybox")
	if err != nil {
		return err
	}
	if dynamic, err := isDynamic(file); err != nil || dynamic {
		return fmt.Errorf("%s is not a static program: apt-get install %s (%v)", file, packages["busybox"], err)
	}
	applets, err := output(ctx, "", nil, file, "--list")
	if err != nil {
		return err
	}
	a.Copy("bin/busybox", file)
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			a.Symlink("bin/"+name, "busybox")
		}
	}
	return nil
}

// isDynamic reports whether a program asks for a dynamic loader.
func isDynamic(file string) (bool, error) {
	f, err := elf.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}

// addModules adds modules and /modules/order, the list that init.sh loads.
func addModules(ctx context.Context, a *Archive, k *Kernel, names []string) error {
	files, err := k.moduleFiles(names)
	if err != nil {
		return err
	}
	var order bytes.Buffer
	for _, file := range files {
		data, err := readModule(ctx, file)
		if err != nil {
			return err
		}
		name := "modules/" + moduleName(file) + ".ko"
		a.File(name, 0o644, data)
		fmt.Fprintln(&order, "/"+name)
	}
	a.File("modules/order", 0o644, order.Bytes())
	return nil
}

// addGuest adds what a host needs to run its guest: QEMU with libraries and firmware in their usual
// places, kernel and initramfs of the guest, and /guest/start. The kernel is the compressed one: to carry
// 8 MB and unpack them under KVM takes less time than to carry 50 MB.
func addGuest(ctx context.Context, a *Archive, k *Kernel, guest *Machine) error {
	qemu, err := tool(qemuProgram)
	if err != nil {
		return err
	}
	libraries, err := librariesOf(ctx, qemu)
	if err != nil {
		return err
	}
	a.Copy("usr/bin/"+qemuProgram, qemu)
	for _, lib := range libraries {
		a.Copy(lib, lib)
	}
	for _, rom := range []string{"qboot.rom", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"} {
		a.Copy(firmware+rom, firmware+rom)
	}
	a.Copy("guest/vmlinuz", k.BzImage)
	var root bytes.Buffer
	if err := guest.writeRoot(ctx, k, &root); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	a.File("guest/initrd", 0o644, root.Bytes())
	a.File("guest/start", 0o644, []byte(guest.startAsGuest()))
	return nil
}

// firmware is where Debian's QEMU looks for it.
const firmware = "/usr/share/qemu/"

var libraryPath = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x`)

// librariesOf returns the paths of the shared libraries that a program loads.
func librariesOf(ctx context.Context, program string) ([]string, error) {
	out, err := output(ctx, "", nil, "ldd", program)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, m := range libraryPath.FindAllSubmatch(out, -1) {
		paths = append(paths, string(m[1]))
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("ldd %s: names no library", program)
	}
	return paths, nil
}
