package kubevend

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is a call to kubevend that failed. Message is for people and says what to do; Reason is for programs.
type Error struct {
	// Code is the status of gRPC.
	Code codes.Code
	// Reason is what happened, in UPPER_SNAKE: see kubevend's page on errors. Empty where kubevend has not said it.
	Reason string
	// Message says what happened, and what to do.
	Message string
	// Metadata are the facts in the message, by name.
	Metadata map[string]string
	// Violations are the fields at fault, as paths.
	Violations []string
	// RetryAfter says when to try again, where kubevend has said it.
	RetryAfter time.Duration
	// RequestID is the id under which kubevend's audit log has the call.
	RequestID string

	cause error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("kubevend: %s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("kubevend: %s: %s", e.Reason, e.Message)
}

// Unwrap gives gRPC's own error, or the context's.
func (e *Error) Unwrap() error { return e.cause }

// IsTemporary says whether the same call may do better later, without anybody changing anything.
func (e *Error) IsTemporary() bool {
	switch e.Code {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition,
		codes.Unimplemented, codes.AlreadyExists:
		return false
	default:
		return true
	}
}

// asksAnew says whether what has ended is one lease, and another may be had.
func (e *Error) asksAnew() bool {
	return e.Reason == reasonRevoked || len(e.Reason) > len(requestIDReasons) && e.Reason[:len(requestIDReasons)] == requestIDReasons
}

const (
	reasonRevoked    = "LEASE_REVOKED"
	reasonStopping   = "SERVER_STOPPING"
	requestIDReasons = "REQUEST_ID_"
)

// toError takes gRPC's error apart.
func toError(err error) *Error {
	found := status.Convert(err)
	told := &Error{Code: found.Code(), Message: found.Message(), cause: err}
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			told.Reason, told.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				told.Violations = append(told.Violations, violation.GetField())
			}
		case *errdetails.RetryInfo:
			told.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.RequestInfo:
			told.RequestID = detail.GetRequestId()
		}
	}
	return told
}
