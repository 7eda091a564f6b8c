package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

const qemuProgram = "qemu-system-x86_64"

// OutputFile is the file in the folder of a Machine to which QEMU writes what the script does, while it runs.
const OutputFile = "script"

// GuestCID is the vsock context ID of a Guest. Its host is 2, and any machine is 1 to itself.
const GuestCID = 3

// A Machine is a virtual machine that runs one script.
type Machine struct {
	Script  string   // run by busybox sh as root, in /work, which is on the PATH
	Files   []string // copied into /work: static programs, as a rule
	Modules []string // kernel modules to load, besides those that the machine itself needs
	Memory  int      // MiB, 0: 256
	Network string   // QEMU's -netdev without its id, the cable of a network card; empty: there is none
	MAC     string   // of that card
	Guest   *Machine // run by this one as a virtualization host, at the same time as Script; one level
}

// A Report is what a script did.
type Report struct {
	Output  string // stdout and stderr, without the lines that init.sh adds at the end
	Status  int    // exit status, -1: none was told
	Console string // the kernel's messages, and what QEMU had to complain about
}

// commandLine are options for the kernel. A machine that panics restarts, and so ends (-no-reboot).
// Self tests, certificates and slab statistics would take 0.3 s under emulation. Linux distrusts the TSCs of
// two AMD processors and would stay with the slow HPET; QEMU reads one clock for both, so they are reliable.
const commandLine = "console=ttyS0 loglevel=3 panic=-1 oops=panic mitigations=off nokaslr audit=0 nowatchdog " +
	"tsc=reliable cryptomgr.notests random.trust_cpu=on " +
	"initcall_blacklist=init_kprobe_trace,crypto_kdf108_init,load_system_certificate_list,slab_sysfs_init"

// qemuCommon are options for every QEMU. The results leave through virtio-serial: two serial ports that
// share an ISA interrupt lose one now and then.
var qemuCommon = []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", "qboot.rom"}

// Run boots m in dir, which should be a test's t.TempDir(), and returns the report of its script, and of
// its guest's if it has one. A script that fails is no error; a machine that ends without telling the
// status of a script is, and so is the end of ctx, which kills it. The reports hold what is known even then.
func (m *Machine) Run(ctx context.Context, k *Kernel, dir string) (host, guest Report, err error) {
	image := filepath.Join(dir, "initrd")
	if err := m.writeInitrd(ctx, k, image); err != nil {
		return host, guest, fmt.Errorf("make initramfs: %w", err)
	}
	complaints, runErr := runQEMU(ctx, m.qemuArgs(k, image, dir))
	host, err = readReport(dir, OutputFile, "console")
	host.Console += complaints
	if m.Guest != nil {
		var guestErr error
		guest, guestErr = readReport(dir, "guest-script", "guest-console")
		if guestErr != nil {
			err = errors.Join(err, fmt.Errorf("guest: %w", guestErr))
		}
	}
	if runErr != nil {
		err = errors.Join(fmt.Errorf("run %s: %w", qemuProgram, runErr), err)
	}
	return host, guest, err
}

func (m *Machine) writeInitrd(ctx context.Context, k *Kernel, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(m.writeRoot(ctx, k, f), f.Close())
}

// modules are those that m.Modules asks for and those for the virtio ports.
func (m *Machine) modules() []string {
	names := []string{"virtio_pci", "virtio_mmio", "virtio_console"}
	if m.Guest != nil {
		names = append(names, "kvm_amd", "vhost_vsock")
	}
	return append(names, m.Modules...)
}

func (m *Machine) memory() string {
	mib := m.Memory
	if mib == 0 {
		mib = 256
	}
	return strconv.Itoa(mib)
}

// qemuArgs are for the emulator that is started here.
func (m *Machine) qemuArgs(k *Kernel, initrd, dir string) []string {
	args := append(qemuCommon[:len(qemuCommon):len(qemuCommon)],
		"-accel", "tcg", "-M", "q35", "-cpu", "max,+svm", "-smp", "2", "-m", m.memory(),
		"-kernel", k.Image, "-initrd", initrd, "-append", commandLine,
		"-serial", "file:"+filepath.Join(dir, "console"), "-device", "virtio-serial-pci")
	if m.Network != "" {
		args = append(args, "-netdev", m.Network+",id=net", "-device", "virtio-net-pci,romfile=,netdev=net,mac="+m.MAC)
	}
	ports := []string{OutputFile}
	if m.Guest != nil {
		ports = append(ports, "guest-script", "guest-console")
	}
	for _, name := range ports {
		args = append(args,
			"-chardev", fmt.Sprintf("file,id=%s,path=%s", name, filepath.Join(dir, name)),
			"-device", fmt.Sprintf("virtserialport,chardev=%s,name=%s", name, name))
	}
	return args
}

// startAsGuest is the shell command with which a host starts m. What m writes goes through a port of
// the host's, and into a file too that tells init.sh of the host that m has booted.
func (m *Machine) startAsGuest() string {
	args := append([]string{"exec", qemuProgram}, qemuCommon...)
	args = append(args,
		"-accel", "kvm", "-cpu", "host", "-M", "microvm,rtc=on", "-smp", "1", "-m", m.memory(),
		"-kernel", "/guest/vmlinuz", "-initrd", "/guest/initrd", "-append", "'"+commandLine+"'",
		"-device", fmt.Sprintf("vhost-vsock-device,guest-cid=%d", GuestCID),
		"-serial", "file:/dev/port-guest-console", "-device", "virtio-serial-device",
		"-chardev", "file,id=script,path=/dev/port-guest-script,logfile=/run/guest.log",
		"-device", "virtserialport,chardev=script,name=script")
	return strings.Join(args, " ") + "\n"
}

// runQEMU runs an emulator until its machine is switched off and returns what it writes itself.
func runQEMU(ctx context.Context, args []string) (string, error) {
	path, err := tool(qemuProgram)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	// The kernel kills the child when the thread that started it ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dieWithParent(cmd)
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), err
}

var lastLine = regexp.MustCompile(`(?m)^exit status (\d+)\n\z`)

// readReport reads the files that QEMU wrote.
func readReport(dir, script, console string) (Report, error) {
	out, err := os.ReadFile(filepath.Join(dir, script))
	if err != nil {
		return Report{Status: -1}, err
	}
	messages, err := os.ReadFile(filepath.Join(dir, console))
	if err != nil {
		return Report{Status: -1}, err
	}
	r := Report{Status: -1, Output: string(out), Console: strings.ReplaceAll(string(messages), "\r", "")}
	m := lastLine.FindStringSubmatchIndex(r.Output)
	if m == nil {
		return r, errors.New("the machine ended without a result")
	}
	r.Status, err = strconv.Atoi(r.Output[m[2]:m[3]])
	r.Output = r.Output[:m[0]]
	return r, err
}
