package kubevend

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

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
