package kubevend_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"kubevend.dev/kubevend"
	kubevendv1 "kubevend.dev/kubevend/v1"
)

// One token, where kubevend is being what the variables KUBEVEND_… say.
func ExampleClient_Issue() {
	client, err := kubevend.Connect(kubevend.FromEnvironment())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	token, err := client.Issue(context.Background(), kubevend.Request{Role: "quickstart", TTL: 10 * time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token) // tells of it, and does not show it; token.Value() does
}

// A refusal has a code, a reason, and a message that says what to do.
func ExampleError() {
	client, err := kubevend.Connect(kubevend.FromEnvironment())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	_, err = client.Issue(context.Background(), kubevend.Request{Role: "quickstart", Namespace: "elsewhere"})
	if errors.Is(err, kubevend.ErrPermissionDenied) {
		log.Print("ask whoever keeps the role: ", err)
	}
	var told *kubevend.Error
	if errors.As(err, &told) {
		fmt.Println(told.Reason, told.Metadata)
	}
}

// A token that is good whenever it is asked for.
func ExampleTokenSource() {
	client, err := kubevend.Connect(kubevend.Settings{
		Address: "kubevend.kubevend.svc:7443", CAFile: "/etc/kubevend/ca.crt", TokenFile: "/var/run/secrets/kubevend/token",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	source := kubevend.NewTokenSource(client, kubevend.Request{Role: "ci"},
		kubevend.OnRevoked(func(lease, message string) { slog.Warn("a lease was ended", "lease", lease, "why", message) }),
		kubevend.OnRefused(func(refusal *kubevend.Error) { slog.Error("no further token", "reason", refusal.Reason) }),
	)
	defer source.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	token, err := source.Token(ctx)
	if err != nil {
		log.Fatal(err)
	}
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://service.example", nil)
	request.Header.Set("Authorization", "Bearer "+token.Value())
}

// Anything that takes a source of OAuth 2.0 tokens.
func ExampleTokenSource_OAuth2() {
	var source *kubevend.TokenSource // as above
	client := &http.Client{Transport: &oauth2.Transport{Source: source.OAuth2(context.Background())}}
	_ = client
}

// What Client has no method for the generated clients have.
func ExampleClient_leases() {
	var client *kubevend.Client // as above
	_, err := client.Leases.RevokeLease(context.Background(), &kubevendv1.RevokeLeaseRequest{Name: "leases/01m85kznhr5a4admx3h24t5gdw"})
	if err != nil {
		log.Fatal(err)
	}
}
