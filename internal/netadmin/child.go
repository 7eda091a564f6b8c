package netadmin

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/netsock"
	"ferry/internal/confine"
)

// childName is what the process is called.
const childName = "ferry-netadmin"

// socketFD is where the process finds its end of the socket pair.
const socketFD = 3

// IsChild reports whether this process was started by Start: then it has to call Main, and nothing else.
func IsChild() bool { return os.Args[0] == childName }

// Main is the process. It returns its exit status when the client has ended. newLogger makes a logger to
// stderr.
func Main(newLogger func(format, level string) *slog.Logger) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	// For ps, and so that who kills vpnsrv by its name does not end this one, which tidies up after it.
	_ = os.WriteFile("/proc/self/comm", []byte(childName), 0)
	if err := run(newLogger); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", childName, err)
		return 1
	}
	return 0
}

func run(newLogger func(format, level string) *slog.Logger) error {
	f := os.NewFile(socketFD, "client")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("this is started by vpnsrv and vpncli only: %w", err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("descriptor %d is no unix socket", socketFD)
	}
	w := newWire(u)
	var r Rules
	if _, err := w.receive(&r); err != nil {
		return err
	}
	log := newLogger(r.LogFormat, r.LogLevel)
	if err := confineSelf(r, log); err != nil {
		return w.send(answer{Error: err.Error()}, -1)
	}
	if err := w.send(answer{}, -1); err != nil {
		return err
	}
	a := &admin{rules: r, log: log}
	return a.serve(w)
}

// confineSelf leaves the rights to change the network, and the files that this takes.
func confineSelf(r Rules, log *slog.Logger) error {
	rules := confine.Rules{
		Capabilities: []int{unix.CAP_NET_ADMIN},
		Devices:      []string{"/dev/net/tun"},
		Write:        []string{"/proc/sys/net"},
		Families:     []int{unix.AF_NETLINK, unix.AF_INET, unix.AF_INET6, unix.AF_UNIX},
		Connect:      true,
		Bind:         true,
		Ioctl:        true,
	}
	for _, path := range r.Read { // editors put a new file in the place of the old one
		rules.Read = append(rules.Read, filepath.Dir(path))
	}
	for _, path := range slices.Concat(r.Write, r.Remove, r.Open) {
		rules.Write = append(rules.Write, filepath.Dir(path))
	}
	if r.Policy != nil { // see package hostdns; also where no name servers are wanted, what a killed one left is taken back
		rules.Links = true
		rules.Write = append(rules.Write, "/etc")
		rules.Read = append(rules.Read, "/run", "/proc/sys/kernel/random/boot_id")
	}
	if r.Pings && netsock.PingTakesRights() {
		rules.Capabilities = append(rules.Capabilities, unix.CAP_NET_RAW)
	}
	if len(r.Connect)+len(r.Open) > 0 { // a hypervisor's socket may belong to anybody, and so may a directory of results
		rules.Capabilities = append(rules.Capabilities, unix.CAP_DAC_OVERRIDE)
	}
	if r.Names {
		rules.Processes = true
		rules.Capabilities = append(rules.Capabilities, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH)
	}
	if r.Forward {
		rules.Listen, rules.Sockets = true, r.Sockets
		rules.Capabilities = append(rules.Capabilities, unix.CAP_NET_BIND_SERVICE)
	}
	lacking, err := confine.Process(rules)
	if err != nil {
		return err
	}
	for _, what := range lacking {
		log.Debug("not confined", "process", childName, "lacking", what)
	}
	return nil
}
