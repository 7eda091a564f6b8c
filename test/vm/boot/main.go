// Command boot boots one machine (package vm), and shows what its script writes while it runs:
//
//	boot [-netdev QEMU-NETDEV -mac MAC] SCRIPT
//
// It ends with the script's exit status, or switches the machine off on SIGINT or SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"ferry/test/vm"
)

func main() {
	m := vm.Machine{Modules: []string{"virtio_net", "af_packet"}}
	flag.StringVar(&m.Network, "netdev", "", "QEMU's -netdev without its id, the cable of a network card")
	flag.StringVar(&m.MAC, "mac", "52:54:00:00:00:01", "address of that card")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	status, err := boot(ctx, &m, flag.Args())
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "boot:", err)
		status = 1
	}
	os.Exit(status)
}

// boot returns the exit status of the script, 0 if ctx ended first.
func boot(ctx context.Context, m *vm.Machine, args []string) (int, error) {
	if len(args) != 1 {
		return 0, errors.New("usage: boot [-netdev NETDEV -mac MAC] SCRIPT")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return 0, err
	}
	m.Script = string(text)
	k, err := vm.FindKernel(ctx, vm.CacheDir())
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "ferry-vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	done := make(chan struct{})
	var r vm.Report
	go func() {
		defer close(done)
		r, _, err = m.Run(ctx, k, dir)
	}()
	follow(filepath.Join(dir, vm.OutputFile), done)
	if ctx.Err() != nil {
		return 0, nil
	}
	return max(r.Status, 0), err
}

// follow shows what is appended to a file until done, and then the rest.
func follow(file string, done <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var from int64
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-tick.C:
		}
		f, err := os.Open(file)
		if err != nil {
			continue // QEMU has not made it yet
		}
		n, _ := io.Copy(os.Stdout, io.NewSectionReader(f, from, 1<<40))
		from += n
		f.Close()
	}
}
