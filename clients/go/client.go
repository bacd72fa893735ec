package kubevend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	kubevendv1 "kubevend.dev/kubevend/v1"
)

// DefaultTimeout is how long a call with one answer may take where its context has no deadline.
const DefaultTimeout = 10 * time.Second

const userAgent = "kubevend-go/0.1.0"

// Of a call that has ended with DEADLINE_EXCEEDED nobody knows what became of it, so it is never made again.
const serviceConfig = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.2s",
	"maxBackoff": "2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// Client is a connection to a kubevend server. It may be used by many goroutines; one for a process is enough.
type Client struct {
	// Issuing, Leases, Roles, Configs and Identity are the generated clients, for all that Client has no method for.
	Issuing  kubevendv1.IssueServiceClient
	Leases   kubevendv1.LeaseServiceClient
	Roles    kubevendv1.RoleServiceClient
	Configs  kubevendv1.ConfigServiceClient
	Identity kubevendv1.IdentityServiceClient

	connection *grpc.ClientConn
}

// Connect prepares a connection; it is opened with the first call.
func Connect(settings Settings) (*Client, error) {
	options, err := settings.dialOptions()
	if err != nil {
		return nil, &Error{Code: codes.FailedPrecondition, Reason: "SETTINGS_INVALID", Message: err.Error(), cause: err}
	}
	return connect(settings.Address, options...)
}

func connect(address string, options ...grpc.DialOption) (*Client, error) {
	options = append([]grpc.DialOption{
		grpc.WithUserAgent(userAgent),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithUnaryInterceptor(withDeadline),
	}, options...)
	connection, err := grpc.NewClient(address, options...)
	if err != nil {
		return nil, toError(err)
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

// Issue has a token issued. It is safe to be made again, since it has a request id. An error is an *Error.
func (c *Client) Issue(ctx context.Context, request Request) (*Token, error) {
	reply, err := c.Issuing.IssueToken(ctx, request.message())
	if err != nil {
		return nil, toError(err)
	}
	return toToken(reply), nil
}

// WhoAmI asks who kubevend takes this caller for.
func (c *Client) WhoAmI(ctx context.Context) (*kubevendv1.WhoAmIResponse, error) {
	reply, err := c.Identity.WhoAmI(ctx, &kubevendv1.WhoAmIRequest{})
	if err != nil {
		return nil, toError(err)
	}
	return reply, nil
}

// Close ends what is under way, and the connection.
func (c *Client) Close() error { return c.connection.Close() }

func withDeadline(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	if _, has := ctx.Deadline(); !has {
		within, cancel := context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
		ctx = within
	}
	return invoke(ctx, method, request, reply, connection, options...)
}

func (s Settings) dialOptions() ([]grpc.DialOption, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if !s.Plaintext {
		config, err := s.tlsConfig()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	if s.TokenFile != "" {
		options = append(options, grpc.WithPerRPCCredentials(&tokenFile{path: s.TokenFile, secure: !s.Plaintext}))
	}
	return options, nil
}

func (s Settings) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("the CA file (KUBEVEND_CA_FILE) cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA file (KUBEVEND_CA_FILE) %s has no certificate in it", s.CAFile)
		}
	}
	if s.ClientCertFile != "" {
		// At each handshake, so that a certificate that was rotated is shown with the next connection.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.ClientCertFile, s.ClientKeyFile)
			return &pair, err
		}
		if _, err := config.GetClientCertificate(nil); err != nil {
			return nil, fmt.Errorf("the client certificate (KUBEVEND_CLIENT_CERT_FILE) cannot be used: %w", err)
		}
	}
	return config, nil
}

// tokenFile shows the token that is in a file now; the file is read again when it is another one.
type tokenFile struct {
	path   string
	secure bool

	mutex sync.Mutex
	seen  os.FileInfo
	token string
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (f *tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := f.current()
	if err != nil {
		return nil, status.Errorf(codes.Unauthenticated,
			"the token file cannot be read (%v): correct KUBEVEND_TOKEN_FILE, or see to it that the file is there", err)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (f *tokenFile) RequireTransportSecurity() bool { return f.secure }

func (f *tokenFile) current() (string, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	found, err := os.Stat(f.path)
	if err != nil {
		return "", err
	}
	if f.seen == nil || !os.SameFile(f.seen, found) || !f.seen.ModTime().Equal(found.ModTime()) || f.seen.Size() != found.Size() {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return "", err
		}
		f.token, f.seen = strings.TrimSpace(string(content)), found
	}
	return f.token, nil
}
