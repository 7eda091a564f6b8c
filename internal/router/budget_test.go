package router

import (
	"bytes"
	"testing"
	"testing/synctest"

	"ferry/internal/buffer"
)

func TestBudgetIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := new(buffer.Budget)
		budget.SetLimit(2 * 4 << 10)
		one := startQueue(t, newPipe(0), QueueConfig{Limit: 1 << 20, Budget: budget})
		two := startQueue(t, newPipe(0), QueueConfig{Limit: 1 << 20, Budget: budget})
		one.Send(item(60, 1))
		two.Send(item(60, 1))
		if n, why := one.Send(item(60, 2)); n != 1 || why != DropMemory {
			t.Errorf("got %d, %s; want the one packet dropped for memory", n, why)
		}
	})
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
				budget := new(buffer.Budget)
				const limit = 1 << 20
				budget.SetLimit(limit)
				for range 32 {
					q := startQueue(t, newPipe(0), QueueConfig{Limit: 256 << 10, Budget: budget})
					go fill(q)
					synctest.Wait()
				}
				// The last one that found it not yet full may exceed it.
				if n := budget.Used(); n > limit+256<<10 {
					t.Errorf("%d KiB are in use, want at most about %d", n>>10, limit>>10)
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
			budget := new(buffer.Budget)
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
		})
	}
}
