package carriertest

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Main is the TestMain of a carrier whose goroutines all end with its connections: it runs the tests, wants that none is left, and
// ends the program.
func Main(m *testing.M) {
	code := m.Run()
	end := time.Now().Add(patience)
	for left := goroutines(); code == 0 && left != ""; left = goroutines() {
		if time.Now().After(end) {
			fmt.Printf("goroutines are left:\n%s\n", left)
			code = 1
		}
		time.Sleep(20 * time.Millisecond)
	}
	os.Exit(code)
}

// goroutines returns the stacks of all but this one and that of package os/signal, which lives as long as the program.
func goroutines() string {
	b := make([]byte, 64<<10)
	all := strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n")[1:] // this one comes first
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return strings.Contains(s, "os/signal.") }), "\n\n")
}
