// Command wire joins two network namespaces by a bad cable: it makes an interface in each, and carries Ethernet between
// them with delay, loss and other faults, which are changed by lines on its standard input.
//
//	ip netns add a; ip netns add b
//	wire -a /run/netns/a -b /run/netns/b -set "delay 10ms, rate 50mbit"
//	loss 1%
//	> drop udp
//	unplug
//	stats
//
// It prints "ready" when the interfaces are there, and ends with its input or at SIGTERM. Package test/wire has the words.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"ferry/test/lab"
	"ferry/test/wire"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	a := flag.String("a", "/proc/self/ns/net", "namespace of one end, a `path`")
	b := flag.String("b", "", "namespace of the other end, a `path`")
	nameA := flag.String("name-a", "eth0", "`name` of the interface in a")
	nameB := flag.String("name-b", "eth0", "`name` of the interface in b")
	seed := flag.Uint64("seed", 1, "`number` that decides what happens by chance")
	set := flag.String("set", "", "`faults` at first, with commas between them")
	flag.Parse()
	var ends [2]wire.End
	for i, e := range []struct{ path, name string }{{*a, *nameA}, {*b, *nameB}} {
		ns, err := lab.OpenNamespace(e.path)
		if err != nil {
			return fmt.Errorf("wire: open namespace (-a, -b): %w", err)
		}
		defer ns.Close()
		ends[i] = wire.End{In: ns.Do, Name: e.name}
	}
	w, err := wire.New(ends[0], ends[1], *seed, *set)
	if err != nil {
		return err
	}
	defer w.Close()
	fmt.Println("ready")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- obey(w, os.Stdin, os.Stdout) }() // ends with the input, or with the program
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// obey does what each line says. A line that it does not understand changes nothing.
func obey(w *wire.Wire, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		switch line := strings.TrimSpace(lines.Text()); line {
		case "":
		case "stats":
			there, back := w.Stats()
			fmt.Fprintf(out, "> %+v\n< %+v\n", there, back)
		default:
			if err := w.Set(line); err != nil {
				fmt.Fprintln(out, err)
				continue
			}
			fmt.Fprintln(out, "ok")
		}
	}
	return lines.Err()
}
