// Package kubernetes puts a source of kubevend's tokens into client-go.
//
//	clientset, err := clientgo.NewForConfig(kubernetes.RESTConfig(source, host, caFile))
//
// It is a module of its own, so that who needs tokens alone does not need client-go, nor this version of it.
package kubernetes

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"

	"kubevend.dev/kubevend"
)

// RESTConfig is a configuration of client-go for a cluster, whose requests show the source's token as it is then. caFile has the
// authorities that vouch for the API server, PEM; empty for those of the system.
func RESTConfig(source *kubevend.TokenSource, host, caFile string) *rest.Config {
	return Wrap(&rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{CAFile: caFile}}, source)
}

// Wrap gives a copy of a configuration, such as that of rest.InClusterConfig or of a kubeconfig, whose requests show the source's
// token and no other credential.
//
// A request that is answered with 401 is made once more with another token, if what it sends can be sent again. Where the source
// has no token, a request waits for one until its context ends, and for [kubevend.DefaultTimeout] at most.
//
// The token goes to the API server alone, and by TLS unless that is on this machine: where a redirect leads elsewhere, as a
// workload behind the API server's proxy can make it, it is not shown.
func Wrap(config *rest.Config, source *kubevend.TokenSource) *rest.Config {
	wrapped := rest.AnonymousClientConfig(config)
	wrapped.Transport, wrapped.WrapTransport = config.Transport, config.WrapTransport
	server, _, err := rest.DefaultServerUrlFor(wrapped)
	if err == nil {
		err = checkServer(server)
	}
	wrapped.Wrap(func(next http.RoundTripper) http.RoundTripper { return &roundTripper{source, next, server, err} })
	return wrapped
}

// checkServer refuses a server to which the token would go in plain text. A host without a scheme is one to client-go.
func checkServer(server *url.URL) error {
	ip := net.ParseIP(server.Hostname())
	if server.Scheme == "https" || server.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("a token goes to %s by TLS alone: give the host as https://%s", server.Host, server.Host)
}

type roundTripper struct {
	source *kubevend.TokenSource
	next   http.RoundTripper
	server *url.URL
	err    error // why the token goes nowhere
}

// RoundTrip implements [http.RoundTripper].
func (r *roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	if r.err == nil && (request.URL.Scheme != r.server.Scheme || request.URL.Host != r.server.Host) {
		return r.next.RoundTrip(request)
	}
	token, err := r.token(request.Context())
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close() // as a RoundTripper must
		}
		return nil, err
	}
	response, err := r.next.RoundTrip(showing(request, request.Body, token))
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	r.source.Invalidate(token)
	return r.again(request, response)
}

// again makes a request once more that was refused, or gives the refusal where that cannot be.
func (r *roundTripper) again(request *http.Request, refused *http.Response) (*http.Response, error) {
	body, ok := bodyAgain(request)
	if !ok {
		return refused, nil
	}
	token, err := r.token(request.Context())
	if err != nil {
		return refused, nil
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(refused.Body, 1<<16)) // so that the connection can be used again
	_ = refused.Body.Close()
	return r.next.RoundTrip(showing(request, body, token))
}

// WrappedRoundTripper lets client-go look inside.
func (r *roundTripper) WrappedRoundTripper() http.RoundTripper { return r.next }

func (r *roundTripper) token(ctx context.Context) (*kubevend.Token, error) {
	if r.err != nil {
		return nil, r.err
	}
	within, cancel := context.WithTimeout(ctx, kubevend.DefaultTimeout)
	defer cancel()
	return r.source.Token(within)
}

// showing gives a copy of a request: a RoundTripper must leave the original as it is.
func showing(request *http.Request, body io.ReadCloser, token *kubevend.Token) *http.Request {
	shown := request.Clone(request.Context())
	shown.Body = body
	shown.Header.Set("Authorization", "Bearer "+token.Value())
	return shown
}

func bodyAgain(request *http.Request) (io.ReadCloser, bool) {
	if request.Body == nil || request.Body == http.NoBody {
		return request.Body, true
	}
	if request.GetBody == nil {
		return nil, false
	}
	body, err := request.GetBody()
	return body, err == nil
}
