package kubevend

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

const (
	longestMargin             = 10 * time.Second
	shortestPause             = 500 * time.Millisecond
	shortestPauseAfterRefusal = 5 * time.Second
	longestPause              = 30 * time.Second
)

// Listener is told what becomes of a source's tokens, on the source's own goroutine: it must not keep it.
type Listener struct {
	// Revoked is called when the lease of the token was ended before its time, and the token given up.
	Revoked func(lease, message string)
	// Refused is called when no further token is allowed. The one that is there is handed out until its end.
	Refused func(refusal *Error)
}

// TokenSource keeps one token that is good, for as long as it is open. It may be used by many goroutines.
//
// It holds a stream of tokens open, which all who ask share. While kubevend cannot be reached it hands out the token that it
// has, for as long as that lives, and tries again.
type TokenSource struct {
	client    *Client
	request   Request
	listeners []Listener
	begin     sync.Once
	ended     sync.WaitGroup
	ctx       context.Context
	cancel    context.CancelFunc

	mutex      sync.Mutex
	changed    chan struct{} // closed, and made anew, at each change
	requestID  string
	current    *Token
	validUntil time.Time
	problem    *Error
	restart    context.CancelFunc // ends the stream that is open, for another one to be opened at once
}

// NewTokenSource makes a source of tokens. It asks for the first when it is first asked; close it in the end.
func NewTokenSource(client *Client, request Request, listeners ...Listener) *TokenSource {
	ctx, cancel := context.WithCancel(context.Background())
	return &TokenSource{
		client: client, request: request, listeners: listeners, ctx: ctx, cancel: cancel,
		changed: make(chan struct{}), requestID: newRequestID(),
	}
}

// Token is the token that is good now. Where there is none it waits until ctx ends. An error is an *Error.
func (s *TokenSource) Token(ctx context.Context) (*Token, error) {
	s.begin.Do(func() {
		s.ended.Add(1)
		go s.run()
	})
	for {
		s.mutex.Lock()
		token, problem, changed := s.current, s.problem, s.changed
		valid := token != nil && time.Now().Before(s.validUntil)
		s.mutex.Unlock()
		switch {
		case s.ctx.Err() != nil:
			return nil, &Error{Code: codes.Canceled, Reason: "SOURCE_CLOSED", Message: "the source of tokens was closed: make another one"}
		case valid:
			return token, nil
		case problem != nil && !problem.IsTemporary():
			return nil, problem
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
		case <-ctx.Done():
			if problem != nil {
				return nil, problem
			}
			return nil, toError(status.FromContextError(ctx.Err()).Err())
		}
	}
}

// Invalidate gives a token up that somebody saw refused, if it is still the one that is handed out; another lease's takes its
// place.
func (s *TokenSource) Invalidate(refused *Token) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.current != refused || refused == nil {
		return
	}
	s.current, s.requestID = nil, newRequestID()
	if s.restart != nil {
		s.restart()
	}
}

// OAuth2 gives the source as one of golang.org/x/oauth2. Its tokens are good at least for a moment; each call of ctx's waits as
// long as ctx lets it.
func (s *TokenSource) OAuth2(ctx context.Context) oauth2.TokenSource { return oauth2Source{ctx, s} }

type oauth2Source struct {
	ctx    context.Context
	source *TokenSource
}

func (o oauth2Source) Token() (*oauth2.Token, error) {
	token, err := o.source.Token(o.ctx)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: token.Value(), TokenType: "Bearer", Expiry: token.Expiration}, nil
}

// Close ends it, and waits until nothing of it runs any more.
func (s *TokenSource) Close() {
	s.begin.Do(func() {}) // what has not begun does not begin any more
	s.cancel()
	s.ended.Wait()
}

func (s *TokenSource) run() {
	defer s.ended.Done()
	failures := 0
	for s.ctx.Err() == nil {
		got, err := s.follow()
		if got {
			failures = 0
		}
		var pause time.Duration
		if err != nil {
			s.fail(err)
			pause = pauseAfter(err, failures)
			failures++
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
		}
	}
}

// follow opens one stream and takes what comes on it. It tells whether a token came, and the error with which the stream
// ended; none where this side had enough of it.
func (s *TokenSource) follow() (bool, *Error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.mutex.Lock()
	s.restart = cancel
	request := s.request.message()
	request.RequestId = s.requestID
	s.mutex.Unlock()
	stream, err := s.client.Issuing.StreamTokens(ctx, &kubevendv1.StreamTokensRequest{Issue: request})
	if err != nil {
		return false, s.endOf(ctx, err)
	}
	// A stream on which nothing comes any more, as behind a proxy that has forgotten it, does not end by itself.
	silence := time.AfterFunc(time.Hour, cancel)
	silence.Stop()
	defer silence.Stop()
	got, told := false, false
	for {
		response, err := stream.Recv()
		if err != nil {
			end := s.endOf(ctx, err)
			if end != nil && end.Reason == reasonRevoked && !told {
				s.lose(end.Metadata["lease"], end.Message)
			}
			return got, end
		}
		if reply := response.GetToken(); reply != nil {
			token := toToken(reply)
			s.take(ctx, token)
			silence.Reset(token.GrantedTTL * 85 / 100)
			got = true
		} else if notice := response.GetNotice(); notice.GetReason() == reasonRevoked {
			s.lose(notice.GetLease(), notice.GetMessage())
			told = true
		}
	}
}

// endOf tells with what a stream ended; nil where this side ended it.
func (s *TokenSource) endOf(ctx context.Context, err error) *Error {
	if ctx.Err() != nil {
		return nil
	}
	if err == io.EOF {
		return &Error{Code: codes.Unavailable, Message: "the stream of tokens has ended", cause: err}
	}
	return toError(err)
}

func (s *TokenSource) take(ctx context.Context, token *Token) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if ctx.Err() != nil {
		return // it was given up meanwhile
	}
	s.current, s.problem = token, nil
	s.validUntil = time.Now().Add(token.GrantedTTL - min(longestMargin, token.GrantedTTL/10))
	s.tellChange()
}

func (s *TokenSource) lose(lease, message string) {
	s.mutex.Lock()
	s.current, s.requestID = nil, newRequestID()
	s.tellChange()
	s.mutex.Unlock()
	for _, listener := range s.listeners {
		if listener.Revoked != nil {
			guarded(func() { listener.Revoked(lease, message) })
		}
	}
}

func (s *TokenSource) fail(err *Error) {
	s.mutex.Lock()
	s.problem = err
	if err.asksAnew() {
		s.problem = nil
		if err.Reason != reasonRevoked {
			s.requestID = newRequestID()
		}
	}
	s.tellChange()
	s.mutex.Unlock()
	if err.IsTemporary() || err.asksAnew() {
		return
	}
	for _, listener := range s.listeners {
		if listener.Refused != nil {
			guarded(func() { listener.Refused(err) })
		}
	}
}

func (s *TokenSource) tellChange() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// pauseAfter says how long to wait before the next stream: longer each time, and never all at once.
func pauseAfter(err *Error, failures int) time.Duration {
	if failures == 0 && (err.asksAnew() || err.Reason == reasonStopping) {
		return rand.N(shortestPause)
	}
	least := shortestPause
	if !err.IsTemporary() && !err.asksAnew() {
		least = shortestPauseAfterRefusal
	}
	most := min(longestPause, least<<min(failures, 10))
	return max(most/2+rand.N(most/2), err.RetryAfter)
}

// guarded keeps a fault of a listener's from ending the source.
func guarded(call func()) {
	defer func() {
		if fault := recover(); fault != nil {
			slog.Error("a listener of a kubevend token source has panicked", "fault", fault)
		}
	}()
	call()
}
