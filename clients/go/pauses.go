package kubevend

import (
	"math/rand/v2"
	"time"
)

const longestPause = 30 * time.Second

// pauses grow, with chance in them, so that those who failed together do not come back together.
type pauses struct {
	free  int // so many of the first are none
	count int
}

// bounds are those of the first pause; the upper one doubles each time.
type bounds struct{ low, high time.Duration }

var (
	temporary = bounds{0, 500 * time.Millisecond}
	refusal   = bounds{5 * time.Second, 10 * time.Second}
)

func (p *pauses) next(first bounds) time.Duration {
	doublings := p.count - p.free
	p.count++
	if doublings < 0 {
		return 0
	}
	high := min(longestPause, first.high<<min(doublings, 10))
	return first.low + rand.N(high-first.low)
}

func (p *pauses) reset() { p.count = 0 }
