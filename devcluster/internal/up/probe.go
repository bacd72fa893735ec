package up

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"
)

const (
	// readyTimeout bounds a start; a few seconds are usual, a busy machine needs more.
	readyTimeout = 2 * time.Minute
	pollInterval = 50 * time.Millisecond
)

// probe asks the API server, as the admin, whether it can be used.
type probe struct {
	server string
	client *http.Client
}

func newProbe(server string, ca *authority, admin keyPair) (*probe, error) {
	certificate, err := tls.X509KeyPair(admin.certificate, admin.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.certificate)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}},
		// A connection kept to an API server that is about to be stopped would hold up its end.
		DisableKeepAlives: true,
	}
	return &probe{server: server, client: &http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

// check returns nil once the API server is ready and has made the namespace `default`, which it does a
// moment after it says that it is ready.
func (p *probe) check(ctx context.Context) error {
	for _, path := range []string{"/readyz", "/api/v1/namespaces/default"} {
		if err := p.get(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

func (p *probe) get(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server+path, nil)
	if err != nil {
		return err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s answered %s", path, response.Status)
	}
	return nil
}
