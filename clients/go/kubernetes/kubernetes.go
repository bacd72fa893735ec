// Package kubernetes puts a source of kubevend's tokens into client-go.
package kubernetes

import (
	"io"
	"net/http"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"kubevend.dev/kubevend"
)

// RESTConfig is a client-go configuration for a cluster, whose requests show the source's token as it is then. caFile has the
// authorities that vouch for the API server, PEM; empty for the system's.
func RESTConfig(source *kubevend.TokenSource, host, caFile string) *rest.Config {
	return Wrap(&rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{CAFile: caFile}}, source)
}

// Wrap gives back a copy of a configuration, whose requests show the source's token and no other credential.
func Wrap(config *rest.Config, source *kubevend.TokenSource) *rest.Config {
	wrapped := rest.AnonymousClientConfig(config)
	wrapped.WrapTransport = transport.Wrappers(config.WrapTransport, func(next http.RoundTripper) http.RoundTripper {
		return &roundTripper{source: source, next: next}
	})
	return wrapped
}

// roundTripper shows the token with each request. One that is answered with 401 is made once more with another token, if
// what it sends can be sent again.
type roundTripper struct {
	source *kubevend.TokenSource
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r *roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	token, err := r.source.Token(request.Context())
	if err != nil {
		return nil, err
	}
	response, err := r.next.RoundTrip(showing(request, token))
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	r.source.Invalidate(token)
	again, ok := repeated(request)
	if !ok {
		return response, nil
	}
	token, err = r.source.Token(request.Context())
	if err != nil {
		return response, nil
	}
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection can be used again
	_ = response.Body.Close()
	return r.next.RoundTrip(showing(again, token))
}

// WrappedRoundTripper lets client-go look inside.
func (r *roundTripper) WrappedRoundTripper() http.RoundTripper { return r.next }

func showing(request *http.Request, token *kubevend.Token) *http.Request {
	shown := request.Clone(request.Context())
	shown.Header.Set("Authorization", "Bearer "+token.Value())
	return shown
}

func repeated(request *http.Request) (*http.Request, bool) {
	if request.Body == nil || request.Body == http.NoBody {
		return request, true
	}
	if request.GetBody == nil {
		return nil, false
	}
	body, err := request.GetBody()
	if err != nil {
		return nil, false
	}
	again := request.Clone(request.Context())
	again.Body = body
	return again, true
}
