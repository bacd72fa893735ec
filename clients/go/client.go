package kubevend

import (
	"context"
	"time"

	"google.golang.org/grpc"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

// DefaultTimeout is how long a call with one answer may take where its context has no deadline.
const DefaultTimeout = 10 * time.Second

// Client calls a kubevend server. It may be used by many goroutines; one for a process is enough.
type Client struct {
	// Issuing, Leases, Roles, Configs and Identity are the generated clients, for all that Client has no method for. Their
	// errors are *Error, too. Unlike a [Token], the messages of Issuing show the token that is in them when they are printed.
	Issuing  kubevendv1.IssueServiceClient
	Leases   kubevendv1.LeaseServiceClient
	Roles    kubevendv1.RoleServiceClient
	Configs  kubevendv1.ConfigServiceClient
	Identity kubevendv1.IdentityServiceClient

	connection *connection
}

// Connect prepares a client; the connection is opened with the first call. Options are gRPC's, such as interceptors; there is
// none that must be given.
//
// It fails where the settings contradict themselves (SETTINGS_INVALID), or a file that they name is not there or of no use
// (FILE_UNREADABLE).
func Connect(settings Settings, options ...grpc.DialOption) (*Client, error) {
	connection, err := newConnection(settings, options)
	if err != nil {
		return nil, err
	}
	return &Client{
		Issuing:    kubevendv1.NewIssueServiceClient(connection),
		Leases:     kubevendv1.NewLeaseServiceClient(connection),
		Roles:      kubevendv1.NewRoleServiceClient(connection),
		Configs:    kubevendv1.NewConfigServiceClient(connection),
		Identity:   kubevendv1.NewIdentityServiceClient(connection),
		connection: connection,
	}, nil
}

// Issue has a token issued. Since it has a request id, a call whose answer was lost is made again without a second lease.
func (c *Client) Issue(ctx context.Context, request Request) (*Token, error) {
	reply, err := c.Issuing.IssueToken(ctx, request.message())
	if err != nil {
		return nil, err
	}
	return toToken(reply, time.Now()), nil
}

// WhoAmI asks who kubevend takes this caller for.
func (c *Client) WhoAmI(ctx context.Context) (*kubevendv1.WhoAmIResponse, error) {
	return c.Identity.WhoAmI(ctx, &kubevendv1.WhoAmIRequest{})
}

// Close ends what is under way, and the connection. A source of tokens that is still open meets only failures from then on.
func (c *Client) Close() error { return c.connection.Close() }
