package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// askTimeout bounds one request, and so how long the program lives after its duration.
	askTimeout = 30 * time.Second
	// errorPause keeps a server that refuses at once from being flooded.
	errorPause = 10 * time.Millisecond
)

var errNoToken = errors.New("the server answered without a token")

// asker asks for one token and returns nil once it has it. It is used by several callers at once where they
// share a connection.
type asker func(context.Context) error

// outcome is what the program prints. Milliseconds throughout, except where the name says otherwise.
type outcome struct {
	// Count is how many tokens came within the measured time; TokensPerSecond, P50 and P99 are about these.
	Count           int     `json:"count"`
	TokensPerSecond float64 `json:"tokens_per_second"`
	P50             float64 `json:"p50_ms"`
	P99             float64 `json:"p99_ms"`
	// Issued is all tokens, those of the warm-up and of the last requests in flight included.
	Issued     int     `json:"issued"`
	Errors     int     `json:"errors"`
	FirstError string  `json:"first_error"`
	CPUSeconds float64 `json:"client_cpu_seconds"`
}

// caller is what one caller has seen.
type caller struct {
	latencies  []time.Duration
	issued     int
	errors     int
	firstError string
}

// measure lets the callers ask one request after the other, each as soon as it has its answer. Nothing new
// is asked after the duration; what is in flight then is awaited, but not measured.
func measure(askers []asker, callers int, warmup, duration time.Duration) outcome {
	start := time.Now().Add(warmup)
	end := start.Add(duration)
	seen := make([]caller, callers)
	var running sync.WaitGroup
	for i := range seen {
		running.Go(func() { seen[i].ask(askers[i%len(askers)], start, end) })
	}
	running.Wait()
	return summarize(seen, duration)
}

func (c *caller) ask(ask asker, start, end time.Time) {
	for time.Now().Before(end) {
		began := time.Now()
		err := askOnce(ask)
		now := time.Now()
		if err != nil {
			c.fail(err)
			continue
		}
		c.issued++
		if now.After(start) && now.Before(end) {
			c.latencies = append(c.latencies, now.Sub(began))
		}
	}
}

func (c *caller) fail(err error) {
	c.errors++
	if c.firstError == "" {
		c.firstError = err.Error()
	}
	time.Sleep(errorPause)
}

func askOnce(ask asker) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	return ask(ctx)
}

func summarize(seen []caller, duration time.Duration) outcome {
	var all []time.Duration
	sum := outcome{CPUSeconds: cpuSeconds()}
	for _, c := range seen {
		all = append(all, c.latencies...)
		sum.Issued += c.issued
		sum.Errors += c.errors
		if sum.FirstError == "" {
			sum.FirstError = c.firstError
		}
	}
	slices.Sort(all)
	sum.Count = len(all)
	sum.TokensPerSecond = float64(len(all)) / duration.Seconds()
	sum.P50 = percentile(all, 0.50)
	sum.P99 = percentile(all, 0.99)
	return sum
}

// percentile returns the nearest rank of sorted latencies in milliseconds; 0 where there are none.
func percentile(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := min(int(share*float64(len(sorted))), len(sorted)-1)
	return sorted[rank].Seconds() * 1000
}

// cpuSeconds is what this process has used, which the servers could not.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
