package kubevend

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Of a call that has ended with DEADLINE_EXCEEDED nobody knows what became of it, so it is never made again. A stream that is
// refused is told to its [TokenSource], which makes its own pauses.
const serviceConfig = `{"methodConfig": [{"name": [{"service": "kubevend.v1.IssueService", "method": "StreamTokens"}]},
	{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.2s",
	"maxBackoff": "2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// gRPC's own pauses grow to two minutes, which would come on top of those of a [TokenSource] after an outage.
var connecting = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 10 * time.Second},
	MinConnectTimeout: 10 * time.Second,
}

// connection is what the generated clients call. It looks at the files of the settings before each call: where CA or
// certificate are other ones, that call and those after it take a new channel, and the old one ends with the last call on it.
// A certificate that only the next handshake showed would not do: the server looks at each call whether the one that it was
// shown is still good.
type connection struct {
	settings Settings
	options  []grpc.DialOption
	token    *tokenFile // nil where the caller shows none

	mutex  sync.Mutex
	files  watched
	newest *channel
	open   map[*channel]struct{}
	closed bool
}

// channel is gRPC's, with the number of calls on it.
type channel struct {
	*grpc.ClientConn
	calls int
}

func newConnection(settings Settings, options []grpc.DialOption) (*connection, error) {
	if err := settings.check(); err != nil {
		return nil, localError(codes.FailedPrecondition, reasonSettings, err.Error(), err)
	}
	c := &connection{
		settings: settings,
		options:  options,
		files:    watched{paths: []string{settings.CAFile, settings.ClientCertFile, settings.ClientKeyFile}},
		open:     map[*channel]struct{}{},
	}
	if settings.TokenFile != "" {
		c.token = newTokenFile(settings.TokenFile)
		if _, err := c.token.current(); err != nil {
			return nil, err
		}
	}
	return c, c.renewLocked() // nobody else has it yet
}

// Invoke implements [grpc.ClientConnInterface].
func (c *connection) Invoke(ctx context.Context, method string, request, reply any, options ...grpc.CallOption) error {
	if _, has := ctx.Deadline(); !has {
		within, cancel := context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
		ctx = within
	}
	channel, options, err := c.begin(options)
	if err != nil {
		return err
	}
	return callError(ctx, channel.Invoke(ctx, method, request, reply, options...))
}

// NewStream implements [grpc.ClientConnInterface].
func (c *connection) NewStream(
	ctx context.Context, description *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	channel, options, err := c.begin(options)
	if err != nil {
		return nil, err
	}
	opened, err := channel.NewStream(ctx, description, method, options...)
	if err != nil {
		return nil, callError(ctx, err)
	}
	return &stream{opened}, nil
}

// Close implements io.Closer.
func (c *connection) Close() error {
	c.mutex.Lock()
	open := c.open
	c.closed, c.open = true, nil
	c.mutex.Unlock()
	var failed error
	for each := range open {
		failed = errors.Join(failed, each.Close())
	}
	return failed
}

// begin gives a call its channel, and the options that show who calls and tell of its end.
func (c *connection) begin(options []grpc.CallOption) (*channel, []grpc.CallOption, error) {
	options = append([]grpc.CallOption{}, options...)
	if c.token != nil {
		token, err := c.token.current()
		if err != nil {
			return nil, nil, err
		}
		options = append(options, grpc.PerRPCCredentials(bearer{token, !c.settings.Plaintext}))
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.closed {
		return nil, nil, localError(codes.Canceled, reasonClientClosed, "the client was closed: make another one, or close it later", nil)
	}
	if _, changed, _ := c.files.look(); changed {
		_ = c.renewLocked() // what cannot be used yet is looked at again with the next call
	}
	chosen := c.newest
	chosen.calls++
	var once sync.Once
	return chosen, append(options, grpc.OnFinish(func(error) { once.Do(func() { c.end(chosen) }) })), nil
}

func (c *connection) end(call *channel) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	call.calls--
	c.retireLocked(call)
}

// renewLocked makes the files as they are now those of the newest channel.
func (c *connection) renewLocked() error {
	found, _, err := c.files.look()
	if err != nil {
		found = nil // reading tells which is missing
	}
	opened, err := c.dial()
	if err != nil {
		return err
	}
	old := c.newest
	c.newest, c.open[opened] = opened, struct{}{}
	c.files.saw(found)
	if old != nil {
		c.retireLocked(old)
	}
	return nil
}

// retireLocked closes a channel on which no call is, nor will be.
func (c *connection) retireLocked(old *channel) {
	if _, open := c.open[old]; open && old != c.newest && old.calls == 0 {
		delete(c.open, old)
		go old.Close() // not in the midst of the end of its last call
	}
}

func (c *connection) dial() (*channel, error) {
	security := insecure.NewCredentials()
	if !c.settings.Plaintext {
		config, err := c.settings.transportSecurity()
		if err != nil {
			return nil, err
		}
		security = credentials.NewTLS(config)
	}
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(security),
		grpc.WithUserAgent("kubevend-go/" + Version),
		grpc.WithDisableServiceConfig(), // the one that a name server may hold
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(connecting),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}, c.options...)
	opened, err := grpc.NewClient(c.settings.Address, options...)
	if err != nil {
		return nil, localError(codes.FailedPrecondition, reasonSettings, err.Error(), err)
	}
	return &channel{ClientConn: opened}, nil
}

// stream tells failures as [*Error].
type stream struct{ grpc.ClientStream }

// RecvMsg implements [grpc.ClientStream].
func (s *stream) RecvMsg(message any) error {
	return callError(s.Context(), s.ClientStream.RecvMsg(message))
}

// bearer shows a token with one call.
type bearer struct {
	token  string
	secure bool
}

// GetRequestMetadata implements [credentials.PerRPCCredentials].
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials].
func (b bearer) RequireTransportSecurity() bool { return b.secure }
