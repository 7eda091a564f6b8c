package dns

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// No goroutine is left when all is closed.
func TestMain(m *testing.M) {
	code := m.Run()
	const own = 2 // this one, and one of package os/signal
	for range 100 {
		if runtime.NumGoroutine() <= own {
			os.Exit(code)
		}
		time.Sleep(20 * time.Millisecond)
	}
	b := make([]byte, 64<<10)
	fmt.Printf("goroutines are left:\n%s\n", b[:runtime.Stack(b, true)])
	os.Exit(1)
}
