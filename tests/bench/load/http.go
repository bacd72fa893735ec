package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

// poster sends one POST and returns what read finds in its answer.
type poster func(ctx context.Context, path, body string, read func([]byte) (string, error)) (string, error)

// dialHTTP makes askers that POST, each over one connection that stays open.
//
// ask makes an asker of what POSTs over such a connection.
func dialHTTP(opts options, header, value string, ask func(poster) asker) ([]asker, func(), error) {
	trust, err := trustOnly(opts.caFile)
	if err != nil {
		return nil, nil, err
	}
	transports := make([]*http.Transport, opts.connections)
	askers := make([]asker, opts.connections)
	for i := range transports {
		transports[i] = &http.Transport{TLSClientConfig: trust.Clone(), Protocols: protocols(opts.http2)}
		// What shares a client waits for nobody: an idle connection is kept for each caller.
		transports[i].MaxIdleConnsPerHost = opts.callers
		client := &http.Client{Transport: transports[i]}
		askers[i] = ask(
			func(ctx context.Context, path, body string, read func([]byte) (string, error)) (string, error) {
				return post(ctx, client, opts.address+path, body, header, value, read)
			},
		)
	}
	return askers, func() {
		for _, transport := range transports {
			transport.CloseIdleConnections()
		}
	}, nil
}

// sameAgain asks for a token by the same POST again and again; readToken finds the token in an answer.
func sameAgain(opts options, readToken func([]byte) (string, error)) func(poster) asker {
	return func(send poster) asker {
		return func(ctx context.Context) error {
			token, err := send(ctx, opts.path, opts.body, readToken)
			if err == nil && token == "" {
				err = errNoToken
			}
			return err
		}
	}
}

func protocols(http2 bool) *http.Protocols {
	spoken := new(http.Protocols)
	spoken.SetHTTP1(!http2)
	spoken.SetHTTP2(http2)
	return spoken
}

func post(
	ctx context.Context, client *http.Client, url, body, header, value string,
	read func([]byte) (string, error),
) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(body))
	if err != nil {
		return "", err
	}
	request.Header.Set(header, value)
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return "", fmt.Errorf("%s: %s", response.Status, answer)
	}
	return read(answer)
}

// tokenRequestToken reads a TokenRequest (authentication.k8s.io/v1).
func tokenRequestToken(answer []byte) (string, error) {
	var request struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	err := json.Unmarshal(answer, &request)
	return request.Status.Token, err
}

// openBaoToken reads what OpenBao's Kubernetes engine answers to creds.
func openBaoToken(answer []byte) (string, error) {
	var secret struct {
		Data struct {
			Token string `json:"service_account_token"`
		} `json:"data"`
	}
	err := json.Unmarshal(answer, &secret)
	return secret.Data.Token, err
}

// trustOnly trusts the CA of a file and no other; a path that is empty is for servers without TLS.
func trustOnly(caFile string) (*tls.Config, error) {
	authorities := x509.NewCertPool()
	if caFile == "" {
		return &tls.Config{RootCAs: authorities}, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	return &tls.Config{RootCAs: authorities}, nil
}
