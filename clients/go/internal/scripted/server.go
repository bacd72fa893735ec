// Package scripted is a kubevend server within a test's own process, which does on each stream what the test says.
package scripted

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

// Server answers as a test tells it to.
type Server struct {
	kubevendv1.UnimplementedIssueServiceServer
	// Issue answers IssueToken.
	Issue func(context.Context, *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error)

	streams chan *Stream
	server  *grpc.Server

	listener *bufconn.Listener

	mutex       sync.Mutex
	away        bool
	dials       int
	connections []*connection
}

// connection swallows what is sent on it once it is frozen, as one behind a firewall that has forgotten it.
type connection struct {
	net.Conn
	frozen atomic.Bool
}

func (c *connection) Write(content []byte) (int, error) {
	if c.frozen.Load() {
		return len(content), nil
	}
	return c.Conn.Write(content)
}

// Start a server. Stop it in the end.
func Start(options ...grpc.ServerOption) *Server {
	// As kubevend has it.
	options = append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}))
	s := &Server{streams: make(chan *Stream, 100), server: grpc.NewServer(options...), listener: bufconn.Listen(1 << 16)}
	kubevendv1.RegisterIssueServiceServer(s.server, s)
	go s.server.Serve(s.listener)
	return s
}

// Stop ends it and all that is under way.
func (s *Server) Stop() { s.server.Stop() }

// Dial is for [grpc.WithContextDialer].
func (s *Server) Dial(ctx context.Context, _ string) (net.Conn, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.dials++
	if s.away {
		return nil, errors.New("nobody is there")
	}
	opened, err := s.listener.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	kept := &connection{Conn: opened}
	s.connections = append(s.connections, kept)
	return kept, nil
}

// Freeze has the connections that are open swallow all that is sent.
func (s *Server) Freeze() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, each := range s.connections {
		each.frozen.Store(true)
	}
}

// Away says whether the server is gone, with all connections to it.
func (s *Server) Away(away bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.away = away
	for _, each := range s.connections {
		_ = each.Close()
	}
	s.connections = nil
}

// Dials is how many connections were asked for.
func (s *Server) Dials() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.dials
}

// Next is the next stream that somebody opens.
func (s *Server) Next() *Stream { return <-s.streams }

// Opened is how many streams are open, or were, that Next has not given.
func (s *Server) Opened() int { return len(s.streams) }

// IssueToken implements the service.
func (s *Server) IssueToken(ctx context.Context, request *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
	return s.Issue(ctx, request)
}

// StreamTokens implements the service.
func (s *Server) StreamTokens(request *kubevendv1.StreamTokensRequest, opened kubevendv1.IssueService_StreamTokensServer) error {
	headers, _ := metadata.FromIncomingContext(opened.Context())
	stream := &Stream{Request: request.GetIssue(), Headers: headers, opened: opened, end: make(chan error, 1)}
	s.streams <- stream
	select {
	case end := <-stream.end:
		return end
	case <-opened.Context().Done():
		return status.FromContextError(opened.Context().Err()).Err()
	}
}

// Stream is one that somebody has opened.
type Stream struct {
	Request *kubevendv1.IssueTokenRequest
	Headers metadata.MD

	opened kubevendv1.IssueService_StreamTokensServer
	end    chan error
}

// Token sends a token of a lease. Its next one is due after two thirds of its life.
func (s *Stream) Token(value, lease string, life time.Duration) {
	s.TokenBefore(value, lease, life, life*2/3)
}

// TokenBefore sends a token of a lease, and says after which part of its life the next one is due.
func (s *Stream) TokenBefore(value, lease string, life, next time.Duration) {
	token := Token(value, lease, life)
	due := timestamppb.New(token.GetExpiration().AsTime().Add(next - life))
	s.send(&kubevendv1.StreamTokensResponse{Event: &kubevendv1.StreamTokensResponse_Token{Token: token}, NextTokenTime: due})
}

// Notice says why the stream ends.
func (s *Stream) Notice(reason, lease string) {
	notice := &kubevendv1.StreamNotice{Reason: reason, Message: "it was so", Lease: lease}
	s.send(&kubevendv1.StreamTokensResponse{Event: &kubevendv1.StreamTokensResponse_Notice{Notice: notice}})
}

func (s *Stream) send(response *kubevendv1.StreamTokensResponse) {
	if err := s.opened.Send(response); err != nil {
		panic(fmt.Sprintf("the stream is over: %v", err))
	}
}

// End ends the stream.
func (s *Stream) End(err error) { s.end <- err }

// Gone is closed when the other side has ended the stream.
func (s *Stream) Gone() <-chan struct{} { return s.opened.Context().Done() }

// Token is what the server answers. Its times are an hour off, as those of a clock that is wrong.
func Token(value, lease string, life time.Duration) *kubevendv1.IssueTokenResponse {
	end := timestamppb.New(time.Now().Add(life - time.Hour))
	return &kubevendv1.IssueTokenResponse{
		Token: value, Lease: lease, Jti: "jti-of-" + lease, Expiration: end, TokenExpiration: end, GrantedTtl: durationpb.New(life),
		Namespace: "apps", ServiceAccount: "demo", Audiences: []string{"https://kubernetes.default.svc"},
	}
}

// Refusal is an error as the server gives it.
func Refusal(code codes.Code, reason string, details ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "kubevend.dev", Metadata: map[string]string{"role": "roles/ci"}}
	told, err := status.New(code, "do something else").WithDetails(append([]protoadapt.MessageV1{info}, details...)...)
	if err != nil {
		panic(err)
	}
	return told.Err()
}
