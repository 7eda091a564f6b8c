package connectip

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// All goroutines have ended with the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	for end := time.Now().Add(patience); code == 0 && runtime.NumGoroutine() > 2; runtime.Gosched() {
		if time.Now().After(end) {
			stacks := make([]byte, 64<<10)
			fmt.Printf("goroutines are left:\n%s\n", stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
	}
	os.Exit(code)
}
