package buffer

import "testing"

// A part of a budget takes no more than its own, and no more than is left of the whole.
func TestBudgetWithin(t *testing.T) {
	whole := new(Budget)
	whole.SetLimit(100)
	part := &Budget{Above: whole}
	part.SetLimit(60)
	part.Add(59)
	if part.Share() != 1 || whole.Share() != 41 || whole.Used() != 59 {
		t.Errorf("share %d, %d of the whole with %d in use; want 1, 41, 59", part.Share(), whole.Share(), whole.Used())
	}
	part.Add(1)
	if part.Share() != 0 || whole.Share() == 0 {
		t.Error("the part is not full, or the whole is")
	}
	part.Add(-30)
	whole.Add(70)
	if part.Share() != 0 {
		t.Error("there is room in the part where the whole is full")
	}
	part.Add(-30)
	if part.Used() != 0 || whole.Used() != 70 {
		t.Errorf("%d and %d are in use, want 0 and 70", part.Used(), whole.Used())
	}
}

// One peer finds room for two super-packets in a small budget too.
func TestShareOfASmallBudget(t *testing.T) {
	alone := new(Budget)
	alone.SetLimit(256 << 10)
	if share := alone.Share(); share < minShare {
		t.Errorf("one queue may hold %d bytes of an empty budget of 256 KiB", share)
	}
}
