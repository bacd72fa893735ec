package kubevend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// For errors.Is: an [*Error] is one of these if it has its code and, where that says one, its reason.
var (
	ErrPermissionDenied = &Error{Code: codes.PermissionDenied}
	ErrNotFound         = &Error{Code: codes.NotFound}
	ErrUnauthenticated  = &Error{Code: codes.Unauthenticated}
	ErrUnavailable      = &Error{Code: codes.Unavailable}
	// ErrClosed is what a closed [TokenSource] answers.
	ErrClosed = &Error{Code: codes.Canceled, Reason: reasonSourceClosed}
)

const (
	reasonRevoked    = "LEASE_REVOKED"
	reasonStopping   = "SERVER_STOPPING"
	requestIDReasons = "REQUEST_ID_"

	reasonSettings     = "SETTINGS_INVALID"
	reasonFile         = "FILE_UNREADABLE"
	reasonClientClosed = "CLIENT_CLOSED"
	reasonSourceClosed = "SOURCE_CLOSED"
	reasonSilent       = "STREAM_SILENT"
	reasonEnded        = "STREAM_ENDED"
)

// Error is a call to kubevend that failed.
type Error struct {
	// Code is the status of gRPC.
	Code codes.Code
	// Reason is what happened, in UPPER_SNAKE: see kubevend's page on errors. Empty where kubevend has not said it.
	Reason string
	// Message says what happened, and what to do.
	Message string
	// Metadata are the facts in the message, by name.
	Metadata map[string]string
	// Violations are the fields at fault.
	Violations []Violation
	// RetryAfter says in how long to try again, where kubevend has said it.
	RetryAfter time.Duration
	// RequestID is the id under which kubevend's audit log has the call.
	RequestID string
	// Local says that nobody was asked: the library itself refuses, as with SETTINGS_INVALID, FILE_UNREADABLE, CLIENT_CLOSED
	// and SOURCE_CLOSED.
	Local bool

	cause error
}

// Violation is a field that breaks its rule.
type Violation struct {
	// Field is its path.
	Field string
	// Description says what it must be.
	Description string
}

// Error implements error.
func (e *Error) Error() string {
	what := e.Reason
	if what == "" {
		what = e.Code.String()
	}
	return fmt.Sprintf("kubevend: %s: %s", what, e.Message)
}

// Unwrap gives what it came of: the error of gRPC, of a file, or of a context that ended.
func (e *Error) Unwrap() error { return e.cause }

// Is tells whether target is an *Error with the same code and reason, as far as it says them.
func (e *Error) Is(target error) bool {
	like, ok := target.(*Error)
	return ok && (like.Code == codes.OK || like.Code == e.Code) && (like.Reason == "" || like.Reason == e.Reason)
}

// GRPCStatus is for [status.FromError] and [status.Code].
func (e *Error) GRPCStatus() *status.Status {
	var told interface{ GRPCStatus() *status.Status }
	if errors.As(e.cause, &told) {
		return told.GRPCStatus()
	}
	return status.New(e.Code, e.Message)
}

// Permanent says whether another attempt alone would change nothing.
func (e *Error) Permanent() bool {
	switch e.Code {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition,
		codes.Unimplemented:
		return true
	default:
		return e.Local
	}
}

// because gives a copy with another cause, for one of the callers who wait for the same thing.
func (e *Error) because(cause error) *Error {
	told := *e
	told.cause = cause
	return &told
}

func localError(code codes.Code, reason, message string, cause error) *Error {
	return &Error{Code: code, Reason: reason, Message: message, Local: true, cause: cause}
}

// callError takes the error of a call apart; nil and io.EOF are none.
func callError(ctx context.Context, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	told := asError(err)
	// So that errors.Is finds out who gave up; gRPC's own errors do not tell.
	if end := endOfContext(ctx); end != nil && status.FromContextError(end).Code() == told.Code {
		told = told.because(end)
	}
	return told
}

// endOfContext is ctx.Err(), also in the moment between its deadline and its own hearing of it, in which the server's answer to
// the same deadline can arrive.
func endOfContext(ctx context.Context) error {
	if deadline, has := ctx.Deadline(); has && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

func asError(err error) *Error {
	var told *Error
	if errors.As(err, &told) {
		return told
	}
	found := status.Convert(err)
	told = &Error{Code: found.Code(), Message: found.Message(), cause: err}
	for _, detail := range found.Details() {
		told.add(detail)
	}
	return told
}

func (e *Error) add(detail any) {
	switch detail := detail.(type) {
	case *errdetails.ErrorInfo:
		e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
	case *errdetails.BadRequest:
		for _, each := range detail.GetFieldViolations() {
			e.Violations = append(e.Violations, Violation{each.GetField(), each.GetDescription()})
		}
	case *errdetails.RetryInfo:
		e.RetryAfter = detail.GetRetryDelay().AsDuration()
	case *errdetails.RequestInfo:
		e.RequestID = detail.GetRequestId()
	}
}
