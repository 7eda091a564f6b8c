package udp

import (
	"testing"

	"ferry/internal/carrier/carriertest"
)

// All goroutines have ended with the tests.
func TestMain(m *testing.M) { carriertest.Main(m) }
