package kubevend

import (
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

const (
	// A token is no longer handed out so long before its end, and for a tenth of its life at most.
	margin = 10 * time.Second
	// How long a stream that was just opened may be silent.
	firstAnswer = 30 * time.Second
	// A token that is given up so soon after it came makes its successor wait, the longer the more often that happens.
	soon = time.Minute
)

// upkeep decides how one token is kept good, and does nothing else: what is held, what went wrong, and when to do what. Its
// times have Go's monotonic reading, so that a clock that is wrong, here or at the server, or that is set, does no harm.
type upkeep struct {
	request   Request
	requestID string

	held  *Token
	until time.Time // it is handed out

	problem   *Error // how the last stream ended; nil since a token came
	due       time.Time
	answered  bool // the stream that is open, or was last, has brought a token
	idRefused bool // the request id of late
	told      bool // listeners, since the last token, that there will be no other
	failures  pauses
	drops     pauses
}

func newUpkeep(request Request) *upkeep {
	id := request.RequestID
	if id == "" {
		id = newRequestID()
	}
	return &upkeep{request: request, requestID: id, drops: pauses{free: 1}}
}

// current is the token, if one is held that is good.
func (u *upkeep) current() *Token {
	if u.held == nil || !time.Now().Before(u.until) {
		return nil
	}
	return u.held
}

// open begins a stream, and tells with what.
func (u *upkeep) open() *kubevendv1.StreamTokensRequest {
	u.answered = false
	issue := u.request.message()
	issue.RequestId = u.requestID
	return &kubevendv1.StreamTokensRequest{Issue: issue}
}

// take holds the token that came, and tells for how long the stream may be silent now.
func (u *upkeep) take(response *kubevendv1.StreamTokensResponse) time.Duration {
	now := time.Now()
	token := toToken(response.GetToken(), now)
	life := token.GrantedTTL
	u.held, u.until = token, now.Add(life-min(margin, life/10))
	u.problem, u.answered, u.idRefused, u.told = nil, true, false, false
	u.failures.reset()
	return max(life*85/100, lifeBeforeNext(response))
}

// lifeBeforeNext tells when in a token's life its successor is overdue, where the server means to send it late: after half of
// what is left by then. All three times are the server's.
func lifeBeforeNext(response *kubevendv1.StreamTokensResponse) time.Duration {
	if response.GetNextTokenTime() == nil {
		return 0
	}
	token := response.GetToken()
	left := token.GetExpiration().AsTime().Sub(response.GetNextTokenTime().AsTime())
	return token.GetGrantedTtl().AsDuration() - max(0, left)/2
}

// drop gives the token up, and asks for one of another lease: at once, unless that happens again and again.
func (u *upkeep) drop() {
	now := time.Now()
	if u.held != nil && now.Sub(u.held.arrived) > soon {
		u.drops.reset()
	}
	u.held, u.problem, u.requestID = nil, nil, newRequestID()
	u.due = now.Add(u.drops.next(temporary))
}

// silent takes it that a stream brought nothing when something was due.
func (u *upkeep) silent() {
	u.problem = &Error{
		Code: codes.Unavailable, Reason: reasonSilent, Message: "the stream of tokens brought nothing in time, and was opened anew",
	}
	u.due = time.Now()
}

// ended takes the end of a stream, and tells whether listeners are to hear of it.
func (u *upkeep) ended(end *Error) (refused bool) {
	now := time.Now()
	if u.isPassing(end) {
		u.problem, u.due = nil, now
		return false
	}
	u.problem = end
	first := temporary
	if end.Permanent() {
		first = refusal
	}
	u.due = now.Add(max(u.failures.next(first), end.RetryAfter))
	refused = end.Permanent() && u.current() != nil && !u.told
	u.told = u.told || refused
	return refused
}

// isPassing tells whether opening a stream again at once puts it right.
func (u *upkeep) isPassing(end *Error) bool {
	if end.refusesRequestID() {
		again := u.idRefused
		u.requestID, u.idRefused = newRequestID(), true
		return !again
	}
	// Another server takes over; or the stream's own credential has ended, and the next one is in the file already.
	return u.answered && (end.Reason == reasonStopping || end.Code == codes.Unauthenticated)
}

// refusesRequestID tells whether another request id may do better.
func (e *Error) refusesRequestID() bool {
	switch e.Code {
	case codes.AlreadyExists, codes.FailedPrecondition, codes.InvalidArgument:
		return strings.HasPrefix(e.Reason, requestIDReasons)
	default:
		return false
	}
}
