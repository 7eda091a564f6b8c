package router

import (
	"bytes"
	"testing"
	"testing/synctest"
)

func TestBudgetIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := new(Budget)
		budget.SetLimit(2 * smallBlock)
		one := startQueue(t, newPipe(0), QueueConfig{Limit: 1 << 20, Budget: budget})
		two := startQueue(t, newPipe(0), QueueConfig{Limit: 1 << 20, Budget: budget})
		one.Send(item(60, 1))
		two.Send(item(60, 1))
		if n, why := one.Send(item(60, 2)); n != 1 || why != DropMemory {
			t.Errorf("got %d, %s; want the one packet dropped for memory", n, why)
		}
	})
}

// A part of a budget takes no more than its own, and no more than is left of the whole.
func TestBudgetWithin(t *testing.T) {
	whole := new(Budget)
	whole.SetLimit(100)
	part := &Budget{Above: whole}
	part.SetLimit(60)
	part.add(59)
	if part.share() != 1 || whole.share() != 41 || whole.Used() != 59 {
		t.Errorf("share %d, %d of the whole with %d in use; want 1, 41, 59", part.share(), whole.share(), whole.Used())
	}
	part.add(1)
	if part.share() != 0 || whole.share() == 0 {
		t.Error("the part is not full, or the whole is")
	}
	part.add(-30)
	whole.add(70)
	if part.share() != 0 {
		t.Error("there is room in the part where the whole is full")
	}
	part.add(-30)
	if part.Used() != 0 || whole.Used() != 70 {
		t.Errorf("%d and %d are in use, want 0 and 70", part.Used(), whole.Used())
	}
}

// The budget holds against strangers who make the gateway answer and do not read, and against senders.
func TestBudgetHolds(t *testing.T) {
	run := bytes.Repeat(item(64, 1), 4000)
	for name, fill := range map[string]func(*Queue){
		"runs": func(q *Queue) { q.Send(run) },
		"control": func(q *Queue) {
			for q.SendControl(item(64, 1)) {
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := new(Budget)
				budget.SetLimit(1 << 20)
				for range 32 {
					q := startQueue(t, newPipe(0), QueueConfig{Limit: 256 << 10, Budget: budget})
					go fill(q)
					synctest.Wait()
				}
				// The last one that found it not yet full may exceed it.
				if n := budget.Used(); int64(n) > budget.limit.Load()+256<<10 {
					t.Errorf("%d KiB are in use, want at most about %d", n>>10, budget.limit.Load()>>10)
				}
			})
		})
	}
}

// Peers that do not read take no room from one that has just come: the large queues find none first. A small budget
// is as good as a large one for one peer.
func TestLargestFirst(t *testing.T) {
	run := bytes.Repeat(item(1000, 1), 400)
	for _, limit := range []int{16 << 20, 64 << 20} {
		synctest.Test(t, func(t *testing.T) {
			budget := new(Budget)
			budget.SetLimit(limit)
			for range 200 {
				startQueue(t, newPipe(0), QueueConfig{Limit: 256 << 10, Budget: budget}).Send(run)
			}
			for range 5 { // who comes late, one after the other
				q := startQueue(t, newPipe(0), QueueConfig{Limit: 256 << 10, Budget: budget})
				if n, why := q.Send(item(100, 1)); n != 0 {
					t.Errorf("of %d KiB %d are in use, and there is no room for one packet: %s", limit>>10, budget.Used()>>10, why)
				}
			}
			alone := new(Budget)
			alone.SetLimit(256 << 10)
			if share := alone.share(); share < minShare {
				t.Errorf("one queue may hold %d bytes of an empty budget of 256 KiB", share)
			}
		})
	}
}
