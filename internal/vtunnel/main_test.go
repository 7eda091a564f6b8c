package vtunnel

import (
	"testing"

	"ferry/internal/carrier/carriertest"
)

func TestMain(m *testing.M) { carriertest.Main(m) }
