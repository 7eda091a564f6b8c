// Package vm boots Linux in QEMU under software emulation, for tests that need what the machine
// running them may not have: a kernel with vsock, and a virtualization host with its guest.
//
// A Machine runs one shell script as root and gives back what it wrote and its exit status:
//
//	go test                                   a Machine in QEMU
//	  Run: kernel + initramfs ------------->    /init (init.sh)
//	  Report.Console <-- serial port --------     kernel messages
//	  Report.Output  <-- virtio port "script" --  sh /script, which may source /lib.sh
//	                                            /work: the machine's Files
//
// A Machine with a Guest is a virtualization host: QEMU emulates an AMD processor with SVM for it,
// and a second QEMU, carried in its initramfs, starts the guest under its kernel's KVM. So there is
// one layer of emulation only, and nothing is asked of the kernel of the machine that runs the test.
//
// In order of processing: kernel.go fetches the kernel, modules.go picks its modules, archive.go and
// root.go pack the initramfs, machine.go runs QEMU and reads the result.
package vm
