package kubevend

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

// Token is a token and what kubevend says of it. Nothing but its method Value shows the token itself.
type Token struct {
	value secret

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
func (t *Token) Value() string { return t.value.text }

// String tells of the token without showing it.
func (t *Token) String() string {
	return fmt.Sprintf("Token(%s/%s, %s, until %s)", t.Namespace, t.ServiceAccount, t.Lease, t.Expiration.Format(time.RFC3339))
}

// LogValue implements slog.LogValuer.
func (t *Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// secret is a text that no verb of fmt and no encoder shows.
type secret struct{ text string }

func (secret) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte("…")) }

func toToken(reply *kubevendv1.IssueTokenResponse) *Token {
	return &Token{
		value:           secret{reply.GetToken()},
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

// Request says what a token is to be. What is left out the role decides.
type Request struct {
	// Role is quickstart or roles/quickstart.
	Role string
	// Namespace and ServiceAccountName say whose token it is to be.
	Namespace, ServiceAccountName string
	// TTL is how long the token should live, in whole seconds. What is longer than may be is shortened, with a warning.
	TTL time.Duration
	// MinTTL is the shortest life that is of use: rather fail than get less.
	MinTTL time.Duration
	// Audiences are whom the token is to be for.
	Audiences []string
	// RequestID is a UUID by which the request can be made again without a second lease. One is made where none is given.
	RequestID string
	// ValidateOnly asks what would happen, and issues nothing.
	ValidateOnly bool
}

func (r Request) message() *kubevendv1.IssueTokenRequest {
	message := &kubevendv1.IssueTokenRequest{
		Role:               "roles/" + strings.TrimPrefix(r.Role, "roles/"),
		Namespace:          r.Namespace,
		ServiceAccountName: r.ServiceAccountName,
		Audiences:          r.Audiences,
		RequestId:          r.RequestID,
		ValidateOnly:       r.ValidateOnly,
	}
	if r.TTL != 0 {
		message.Ttl = durationpb.New(r.TTL)
	}
	if r.MinTTL != 0 {
		message.MinTtl = durationpb.New(r.MinTTL)
	}
	if message.RequestId == "" {
		message.RequestId = newRequestID()
	}
	return message
}

// newRequestID makes a random UUID (RFC 9562, version 4).
func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails: see its documentation
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
