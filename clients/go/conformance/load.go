package main

import (
	"context"
	"sync"
)

// load makes requests one after another, until it is to stop.
type load struct {
	ctx     context.Context
	stop    context.CancelFunc
	workers sync.WaitGroup

	mutex            sync.Mutex
	requests, failed int
	firstFailure     string
	tokens           map[string]bool
}

func (u *used) startLoad(workers int) {
	ctx, stop := context.WithCancel(context.Background())
	of := &load{ctx: ctx, stop: stop, tokens: map[string]bool{}}
	u.mutex.Lock()
	u.load = of
	u.mutex.Unlock()
	for range workers {
		of.workers.Go(func() {
			for ctx.Err() == nil {
				of.count(u.list(context.Background())) // the last one is made to its end, too
			}
		})
	}
}

// stopLoad stops it, if there is one, and tells of it.
func (u *used) stopLoad() answer {
	u.mutex.Lock()
	of := u.load
	u.load = nil
	u.mutex.Unlock()
	if of == nil {
		return answer{}
	}
	of.stop()
	of.workers.Wait()
	of.mutex.Lock()
	defer of.mutex.Unlock()
	return answer{"requests": of.requests, "failed": of.failed, "first_failure": of.firstFailure, "tokens": len(of.tokens)}
}

func (u *used) accepted(digest string) {
	u.mutex.Lock()
	of := u.load
	u.mutex.Unlock()
	if of != nil {
		of.mutex.Lock()
		defer of.mutex.Unlock()
		of.tokens[digest] = true
	}
}

func (l *load) count(err error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.requests++
	if err == nil {
		return
	}
	l.failed++
	if l.firstFailure == "" {
		l.firstFailure = err.Error()
	}
}
