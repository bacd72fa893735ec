package kubevend

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

// Token is a token and what kubevend says of it. Nothing but its method Value shows the token itself: no verb of fmt, no
// encoder and no logger does.
type Token struct {
	// A function, since that is what neither fmt nor reflection looks into.
	value   func() string
	arrived time.Time

	// Expiration is the end of the lease: until when kubevend answers for the token.
	Expiration time.Time
	// TokenExpiration is the latest moment at which the cluster still accepts the token.
	TokenExpiration time.Time
	// GrantedTTL is how long it lives from its issuing, after every cap.
	GrantedTTL time.Duration
	// Namespace and ServiceAccount say whose token it is.
	Namespace, ServiceAccount string
	// Audiences are whom it is for.
	Audiences []string
	// Lease is leases/….
	Lease string
	// JTI is the token's id, by which Kubernetes' audit log knows it.
	JTI string
	// Replayed says whether it is another token of a lease that an earlier call with the same request id got.
	Replayed bool
	// Warnings tell what came out otherwise than it was asked.
	Warnings []*kubevendv1.Warning
}

// Value is the token itself, for an Authorization: Bearer header. Empty where it was only validated.
func (t Token) Value() string {
	if t.value == nil {
		return ""
	}
	return t.value()
}

// String tells of the token without showing it.
func (t Token) String() string {
	return fmt.Sprintf("Token(%s, %s/%s, until %s)", t.Lease, t.Namespace, t.ServiceAccount, t.Expiration.Format(time.RFC3339))
}

// Format implements [fmt.Formatter]: every verb gives what String does.
func (t Token) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, t.String()) }

// LogValue implements [slog.LogValuer].
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// toToken takes an answer, and the moment at which it came.
func toToken(reply *kubevendv1.IssueTokenResponse, arrived time.Time) *Token {
	value := reply.GetToken()
	return &Token{
		value:           func() string { return value },
		arrived:         arrived,
		Expiration:      reply.GetExpiration().AsTime(),
		TokenExpiration: reply.GetTokenExpiration().AsTime(),
		GrantedTTL:      reply.GetGrantedTtl().AsDuration(),
		Namespace:       reply.GetNamespace(),
		ServiceAccount:  reply.GetServiceAccount(),
		Audiences:       reply.GetAudiences(),
		Lease:           reply.GetLease(),
		JTI:             reply.GetJti(),
		Replayed:        reply.GetReplayed(),
		Warnings:        reply.GetWarnings(),
	}
}
