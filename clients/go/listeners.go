package kubevend

import (
	"log/slog"
	"runtime/debug"
	"sync"
)

// Option is a listener of a [TokenSource]. Listeners are called one after another, on a goroutine of their own: a slow one keeps
// the others waiting, and no token. One that panics is logged, and does no other harm.
type Option func(*listeners)

// OnRenewed is called with each token.
func OnRenewed(call func(*Token)) Option {
	return func(l *listeners) { l.renewed = append(l.renewed, call) }
}

// OnRevoked is called with the name of a lease that was ended before its time, and why. Its token was given up, and one of another
// lease asked for, which the policies may allow or not.
func OnRevoked(call func(lease, message string)) Option {
	return func(l *listeners) { l.revoked = append(l.revoked, call) }
}

// OnRefused is called when no further token is allowed. The one that is held is handed out until its end, and kubevend is asked
// again now and then.
func OnRefused(call func(refusal *Error)) Option {
	return func(l *listeners) { l.refused = append(l.refused, call) }
}

type listeners struct {
	renewed []func(*Token)
	revoked []func(lease, message string)
	refused []func(*Error)

	mutex   sync.Mutex
	waiting []func()
	telling bool
}

func (l *listeners) tellRenewed(token *Token) {
	for _, call := range l.renewed {
		l.tell(func() { call(token) })
	}
}

func (l *listeners) tellRevoked(lease, message string) {
	for _, call := range l.revoked {
		l.tell(func() { call(lease, message) })
	}
}

func (l *listeners) tellRefused(refusal *Error) {
	for _, call := range l.refused {
		l.tell(func() { call(refusal) })
	}
}

// tell has something told after what waits already. The goroutine that tells ends when there is nothing left.
func (l *listeners) tell(call func()) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.waiting = append(l.waiting, call)
	if !l.telling {
		l.telling = true
		go l.tellAll()
	}
}

func (l *listeners) tellAll() {
	for call := l.next(); call != nil; call = l.next() {
		guarded(call)
	}
}

func (l *listeners) next() func() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(l.waiting) == 0 {
		l.telling = false
		return nil
	}
	call := l.waiting[0]
	l.waiting = l.waiting[1:]
	return call
}

func guarded(call func()) {
	defer func() {
		if fault := recover(); fault != nil {
			slog.Error("a listener of a kubevend token source panicked", "fault", fault, "stack", string(debug.Stack()))
		}
	}()
	call()
}
