package vm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLoadOrder(t *testing.T) {
	const dep = `kernel/net/vmw_vsock/vsock.ko:
kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko: kernel/net/vmw_vsock/vsock.ko
kernel/drivers/vhost/vhost_vsock.ko.xz: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko kernel/net/vmw_vsock/vsock.ko
kernel/arch/x86/kvm/kvm-amd.ko.xz:
`
	const builtin = "kernel/drivers/virtio/virtio.ko\n"
	for _, test := range []struct {
		name, modules, want string
	}{
		{"alone", "vsock", "vsock"},
		{"needs two", "vhost_vsock", "vsock vmw_vsock_virtio_transport_common vhost_vsock"},
		{"once each", "vsock vhost_vsock", "vsock vmw_vsock_virtio_transport_common vhost_vsock"},
		{"hyphen in the file name", "kvm_amd", "kvm_amd"},
		{"built in", "virtio vsock", "vsock"},
		{"unknown", "vsock nosuch", "error: no module nosuch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			files, err := loadOrder(dep, builtin, strings.Fields(test.modules))
			for i, f := range files {
				files[i] = moduleName(f)
			}
			got := strings.Join(files, " ")
			if err != nil {
				got = "error: " + err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// bzImage wraps a payload as the kernel's build does, with two sectors before the kernel.
func bzImage(payload []byte) []byte {
	const sects, offset = 1, 64
	b := make([]byte, (sects+1)*512+offset)
	b[setupSects] = sects
	copy(b[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint32(b[payloadOffset:], offset)
	binary.LittleEndian.PutUint32(b[payloadLength:], uint32(len(payload)))
	return append(append(b, payload...), "what follows"...)
}

func TestUnpackImage(t *testing.T) {
	skipElsewhere(t)
	elf := "\x7fELF" + strings.Repeat("kernel", 1000)
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(elf)))
	for _, test := range []struct {
		name     string
		compress []string
		suffix   []byte
	}{
		{"lz4", []string{"lz4", "-l", "-c"}, size},
		{"gzip", []string{"gzip", "-c"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			packed, err := output(t.Context(), "", []byte(elf), test.compress[0], test.compress[1:]...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := unpackImage(t.Context(), bzImage(slices.Concat(packed, test.suffix)))
			if err != nil || string(got) != elf {
				t.Errorf("got %d bytes, error %v; want %d, none", len(got), err, len(elf))
			}
		})
	}
	outside := bzImage([]byte("payload"))
	binary.LittleEndian.PutUint32(outside[payloadLength:], 1<<31)
	for name, b := range map[string][]byte{
		"empty": nil, "no kernel": make([]byte, 4096), "unknown payload": bzImage([]byte("what?")), "payload outside": outside,
	} {
		if got, err := unpackImage(t.Context(), b); err == nil {
			t.Errorf("%s: got %d bytes, want an error", name, len(got))
		}
	}
}

func TestFindKernel(t *testing.T) {
	cache := t.TempDir()
	for _, dir := range []string{
		"linux-image-6.1.0-1-cloud-amd64/boot", "linux-image-6.1.0-1-cloud-amd64/lib/modules/6.1.0-1-cloud-amd64",
		"new-123/boot", // another process is filling it
	} {
		if err := os.MkdirAll(filepath.Join(cache, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := FindKernel(t.Context(), cache); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v for a damaged cache, want an error that says what to do", err)
	}
	file := filepath.Join(cache, "linux-image-6.1.0-1-cloud-amd64/boot/vmlinuz-6.1.0-1-cloud-amd64")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := FindKernel(t.Context(), cache)
	if err != nil || k.Release != "6.1.0-1-cloud-amd64" || k.BzImage != file {
		t.Errorf("got %+v, %v", k, err)
	}
}

func TestMissingTool(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := tool(qemuProgram)
	if err == nil || !strings.Contains(err.Error(), "apt-get install qemu-system-x86") {
		t.Errorf("got %v, want an error that names the package", err)
	}
}
