package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"ferry/test/lab"
)

const (
	mib       = 1 << 20
	idleAfter = 5 * time.Second // from joining until a program counts as idle
	userHz    = 100             // of utime and stime in /proc/PID/stat: proc(5), USER_HZ
)

// memoryRow reads the resident memory of both programs, which includes the pages of the program itself,
// when they are idle and right after one TCP flow in each direction. Each run starts them anew. Each
// program is two processes, which share the pages of the program: PSS counts those once.
func memoryRow(ctx context.Context, b *bench) ([]*line, error) {
	lines := []*line{
		{what: "vpnsrv idle, RSS, MiB", bars: []bar{atMost(15, "<= 15 MiB")}},
		{what: "vpnsrv and its ferry-netadmin idle, PSS, MiB"},
		{what: "vpncli idle, RSS, MiB", bars: []bar{atMost(12, "<= 12 MiB")}},
		{what: "vpncli and its ferry-netadmin idle, PSS, MiB"},
		{what: "vpnsrv after TCP flows, RSS, MiB"},
		{what: "vpnsrv and its ferry-netadmin after TCP flows, PSS, MiB"},
		{what: "vpncli after TCP flows, RSS, MiB"},
		{what: "vpncli and its ferry-netadmin after TCP flows, PSS, MiB"},
	}
	return lines, b.inTurn(ctx, []path{{ours, ferryAddr}}, b.memory, lines...)
}

// memory returns the RSS of vpnsrv and vpncli before and after traffic.
func (b *bench) memory(ctx context.Context, p path) ([]float64, error) {
	f, err := b.startFerry(b.net.c1)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	server, err := startIperf(b.net.gw)
	if err != nil {
		return nil, err
	}
	defer stop(server)
	if !sleep(ctx, idleAfter) {
		return nil, ctx.Err()
	}
	idle, err := f.memory()
	if err != nil {
		return nil, err
	}
	for _, back := range []bool{false, true} {
		if _, err := iperf(ctx, b.net.c1, p.addr, b.flow, back); err != nil {
			return nil, err
		}
	}
	used, err := f.memory()
	return append(idle, used...), err
}

// memory returns the RSS of the gateway and of the clients, each with the PSS of its two processes, in MiB.
func (f *ferry) memory() (all []float64, err error) {
	for _, p := range append([]*lab.Proc{f.srv}, f.clients...) {
		resident, err := rss(p.Pid())
		if err != nil {
			return nil, err
		}
		both := 0.0
		for _, pid := range []int{p.Pid(), p.Child("ferry-netadmin")} {
			bytes, err := sizeOf(pid, "smaps_rollup", "Pss:")
			if err != nil {
				return nil, err
			}
			both += bytes
		}
		all = append(all, resident/mib, both/mib)
	}
	return all, nil
}

// rss returns VmRSS of a process, in bytes.
func rss(pid int) (float64, error) { return sizeOf(pid, "status", "VmRSS:") }

// sizeOf returns a size that a file in /proc/PID tells, in bytes.
func sizeOf(pid int, file, name string) (float64, error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	all, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(string(all)) {
		if value, ok := strings.CutPrefix(text, name); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}

// cpuTime returns how long a process has been running on a processor.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field, in parentheses, may contain anything: proc(5).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	var ticks int64
	for _, field := range fields[11:13] { // utime, stime: fields 14 and 15, and the first is 3
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHz, nil
}

// sizeRow tells the size of the programs as they were built.
func sizeRow(_ context.Context, b *bench) ([]*line, error) {
	programs := []string{"vpnsrv", "vpncli", "minimal/vpncli"}
	lines := []*line{
		{what: "vpnsrv, size of the program, MiB"},
		{what: "vpncli, size of the program, MiB"},
		{what: "vpncli of 'make minimal', MiB", bars: []bar{atMost(7, "<= 7 MiB")}},
	}
	for i, name := range programs {
		info, err := os.Stat(b.program(name))
		if err != nil {
			return nil, err
		}
		lines[i].got[ours] = series{float64(info.Size()) / mib}
	}
	return lines, nil
}
