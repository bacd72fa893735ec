package kubevend

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

// Why this side ends a stream.
var (
	errSilent  = errors.New("nothing came when something was due")
	errDropped = errors.New("the token was given up")
)

// TokenSource keeps one token good, for as long as it is open. It may be used by many goroutines.
//
// It holds one stream of tokens open, which all who ask share, and on which kubevend sends the next token in time. While
// kubevend cannot be reached it hands out the token that it has, until shortly before that ends, and opens the stream again
// with growing pauses. It asks for nothing before its first use.
type TokenSource struct {
	client    *Client
	listeners listeners
	begin     sync.Once
	ended     chan struct{} // closed when nothing runs any more
	ctx       context.Context
	stop      context.CancelFunc

	mutex   sync.Mutex
	upkeep  *upkeep
	changed chan struct{}           // closed, and made anew, at each change
	abandon context.CancelCauseFunc // ends the stream that is open; nil where none is
}

// NewTokenSource makes a source of tokens. Close it in the end.
func NewTokenSource(client *Client, request Request, options ...Option) *TokenSource {
	ctx, stop := context.WithCancel(context.Background())
	s := &TokenSource{
		client: client, ended: make(chan struct{}), ctx: ctx, stop: stop, upkeep: newUpkeep(request), changed: make(chan struct{}),
	}
	for _, option := range options {
		option(&s.listeners)
	}
	return s
}

// Token is the token that is good now: at once while one is held. Else it waits for one until ctx ends, and fails at once where
// kubevend refuses for good. In the end it fails with what kept the token from coming; to errors.Is that is ctx.Err(), too.
func (s *TokenSource) Token(ctx context.Context) (*Token, error) {
	s.begin.Do(func() { go s.run() })
	for {
		s.mutex.Lock()
		token, problem, changed := s.upkeep.current(), s.upkeep.problem, s.changed
		s.mutex.Unlock()
		switch {
		case s.ctx.Err() != nil:
			return nil, localError(codes.Canceled, reasonSourceClosed, "the source of tokens was closed: make another one, or close it later", nil)
		case token != nil:
			return token, nil
		case problem != nil && problem.Permanent():
			return nil, problem.because(problem.cause)
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
		case <-ctx.Done():
			return nil, late(ctx, problem)
		}
	}
}

// late is what to tell somebody who has waited in vain.
func late(ctx context.Context, problem *Error) *Error {
	if problem != nil {
		return problem.because(ctx.Err())
	}
	return &Error{
		Code: status.FromContextError(ctx.Err()).Code(), Message: "no token came in time: wait for longer, or look whether kubevend answers",
		cause: ctx.Err(),
	}
}

// Invalidate says that somebody was refused (401) with a token. If it is still the current one it is given up, and one of another
// lease takes its place.
func (s *TokenSource) Invalidate(refused *Token) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if held := s.upkeep.held; held != nil && refused != nil && held.Value() == refused.Value() {
		s.dropLocked()
	}
}

// Close ends it: the stream, and every wait. Nothing of the source runs any more then, except for a listener that is at work.
// It may be called more than once, and by listeners.
func (s *TokenSource) Close() error {
	s.begin.Do(func() { close(s.ended) }) // what has not begun does not begin any more
	s.stop()
	<-s.ended
	return nil
}

func (s *TokenSource) run() {
	defer close(s.ended)
	for s.rest() {
		s.follow()
	}
}

// rest waits until a stream is to be opened; it tells whether one is.
func (s *TokenSource) rest() bool {
	for s.ctx.Err() == nil {
		s.mutex.Lock()
		pause, changed := time.Until(s.upkeep.due), s.changed
		s.mutex.Unlock()
		if pause <= 0 {
			return true
		}
		select {
		case <-time.After(pause):
		case <-changed:
		case <-s.ctx.Done():
		}
	}
	return false
}

// follow opens one stream, and takes what comes on it until its end.
func (s *TokenSource) follow() {
	ctx, abandon := context.WithCancelCause(s.ctx)
	defer abandon(nil)
	s.mutex.Lock()
	s.abandon = abandon
	request := s.upkeep.open()
	s.mutex.Unlock()
	// A stream on which nothing comes any more, as behind a proxy that has forgotten it, does not end by itself.
	silence := time.AfterFunc(firstAnswer, func() { abandon(errSilent) })
	defer silence.Stop()
	stream, err := s.client.Issuing.StreamTokens(ctx, request)
	for err == nil {
		var response *kubevendv1.StreamTokensResponse
		if response, err = stream.Recv(); err == nil {
			s.hear(ctx, response, silence)
		}
	}
	s.end(ctx, err)
}

// hear takes what a stream brought, unless it was given up meanwhile.
func (s *TokenSource) hear(ctx context.Context, response *kubevendv1.StreamTokensResponse, silence *time.Timer) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if ctx.Err() != nil {
		return
	}
	if response.GetToken() != nil {
		silence.Reset(s.upkeep.take(response))
		s.listeners.tellRenewed(s.upkeep.held)
		s.tellChangeLocked()
		return
	}
	// Of any other notice the end of the stream says the same, and more.
	if notice := response.GetNotice(); notice.GetReason() == reasonRevoked {
		s.revokeLocked(notice.GetLease(), notice.GetMessage())
	}
}

// end takes the end of a stream.
func (s *TokenSource) end(ctx context.Context, err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.abandon = nil
	switch held := s.upkeep.held; {
	case context.Cause(ctx) == errDropped || s.ctx.Err() != nil:
	case context.Cause(ctx) == errSilent:
		s.upkeep.silent()
	case errors.Is(err, &Error{Reason: reasonRevoked}) && held != nil: // and its notice did not arrive
		s.revokeLocked(held.Lease, asError(err).Message)
	default:
		if end := endOf(err); s.upkeep.ended(end) {
			s.listeners.tellRefused(end)
		}
	}
	s.tellChangeLocked()
}

func endOf(err error) *Error {
	if err == io.EOF {
		return &Error{Code: codes.Unavailable, Reason: reasonEnded, Message: "the stream of tokens has ended without a reason", cause: err}
	}
	return asError(err)
}

func (s *TokenSource) revokeLocked(lease, message string) {
	if held := s.upkeep.held; held != nil && held.Lease == lease {
		s.dropLocked()
	}
	s.listeners.tellRevoked(lease, message)
}

func (s *TokenSource) dropLocked() {
	s.upkeep.drop()
	if s.abandon != nil {
		s.abandon(errDropped)
	}
	s.tellChangeLocked()
}

func (s *TokenSource) tellChangeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}
