package kubernetes_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"

	"kubevend.dev/kubevend"
	"kubevend.dev/kubevend/internal/scripted"
	"kubevend.dev/kubevend/kubernetes"
)

// stage is an API server that accepts one token alone, a kubevend that gives one after another, and a source between them.
type stage struct {
	*testing.T
	kubevend *scripted.Server
	source   *kubevend.TokenSource
	config   *rest.Config

	mutex    sync.Mutex
	accepts  string
	requests []string
}

func setUp(t *testing.T) *stage {
	s := &stage{T: t, kubevend: scripted.Start()}
	api := httptest.NewServer(http.HandlerFunc(s.serve))
	client, err := kubevend.Connect(
		kubevend.Settings{Address: "127.0.0.1:1", Plaintext: true}, grpc.WithContextDialer(s.kubevend.Dial))
	if err != nil {
		t.Fatal(err)
	}
	s.source = kubevend.NewTokenSource(client, kubevend.Request{Role: "ci"})
	s.config = kubernetes.RESTConfig(s.source, api.URL, "")
	t.Cleanup(func() {
		_ = s.source.Close()
		_ = client.Close()
		s.kubevend.Stop()
		api.Close()
	})
	return s
}

// serve notes token and body of each request, and refuses those with another token.
func (s *stage) serve(answer http.ResponseWriter, request *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	body, _ := io.ReadAll(request.Body)
	token := request.Header.Get("Authorization")
	s.requests = append(s.requests, strings.TrimSpace(token+" "+string(body)))
	if token != "Bearer "+s.accepts {
		answer.WriteHeader(http.StatusUnauthorized)
	}
}

func (s *stage) accept(token string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.accepts = token
}

// give answers the streams that are opened with these tokens, one each.
func (s *stage) give(tokens ...string) {
	go func() {
		for _, each := range tokens {
			s.kubevend.Next().Token(each, "leases/"+each, 10*time.Minute)
		}
	}()
}

// sends makes a request with client-go's transport, and gives the status of its answer.
func (s *stage) sends(config *rest.Config, body io.Reader) int {
	s.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		s.Fatal(err)
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, config.Host, body)
	if err != nil {
		s.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		s.Fatal(err)
	}
	_ = response.Body.Close()
	if request.Header.Get("Authorization") != "" {
		s.Fatal("the caller's own request was changed")
	}
	return response.StatusCode
}

func (s *stage) saw(want ...string) {
	s.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if strings.Join(s.requests, ", ") != strings.Join(want, ", ") {
		s.Fatalf("%q, not %q", s.requests, want)
	}
}

// Each request shows the source's token, and none of the credentials that the configuration had.
func TestEachRequestShowsTheToken(t *testing.T) {
	s := setUp(t)
	s.give("one")
	s.accept("one")
	config := kubernetes.Wrap(&rest.Config{
		Host: s.config.Host, BearerToken: "mine", BearerTokenFile: "/mine", Username: "", UserAgent: "agent", QPS: 7,
		Impersonate: rest.ImpersonationConfig{UserName: "somebody"},
	}, s.source)
	if config.UserAgent != "agent" || config.QPS != 7 {
		t.Fatal("the rest of the configuration is lost")
	}
	if s.sends(config, strings.NewReader("a")) != http.StatusOK || s.sends(config, nil) != http.StatusOK {
		t.Fatal("refused")
	}
	s.saw("Bearer one a", "Bearer one")
}

// A request that is refused is made once more with another token, body and all.
func TestA401IsTriedOnceMore(t *testing.T) {
	s := setUp(t)
	s.give("one", "two")
	s.accept("two")
	if s.sends(s.config, strings.NewReader("a body")) != http.StatusOK {
		t.Fatal("refused")
	}
	s.saw("Bearer one a body", "Bearer two a body")
}

// One that is refused again stays refused.
func TestASecond401IsTheAnswer(t *testing.T) {
	s := setUp(t)
	s.give("one", "two")
	if s.sends(s.config, nil) != http.StatusUnauthorized {
		t.Fatal("accepted")
	}
	s.saw("Bearer one", "Bearer two")
}

// One whose body is gone is not made again, but the next one has another token.
func TestWhatCannotBeSentAgainIsNot(t *testing.T) {
	s := setUp(t)
	s.give("one", "two")
	s.accept("two")
	if s.sends(s.config, io.NopCloser(strings.NewReader("a stream"))) != http.StatusUnauthorized {
		t.Fatal("accepted")
	}
	if s.sends(s.config, nil) != http.StatusOK {
		t.Fatal("refused")
	}
	s.saw("Bearer one a stream", "Bearer two")
}

// Where no further token is to be had the API server's answer is given.
func TestWithoutAnotherTokenTheRefusalIsTheAnswer(t *testing.T) {
	s := setUp(t)
	go func() {
		s.kubevend.Next().Token("one", "leases/one", 10*time.Minute)
		s.kubevend.Next().End(scripted.Refusal(codes.PermissionDenied, "ACCESS_DENIED"))
	}()
	if s.sends(s.config, nil) != http.StatusUnauthorized {
		t.Fatal("accepted")
	}
	s.saw("Bearer one")
}

// A request for which there is no token fails with the reason, and its body is closed.
func TestWithoutATokenNothingIsSent(t *testing.T) {
	s := setUp(t)
	go func() { s.kubevend.Next().End(scripted.Refusal(codes.NotFound, "ROLE_NOT_FOUND")) }()
	client, err := rest.HTTPClientFor(s.config)
	if err != nil {
		t.Fatal(err)
	}
	body := &closing{Reader: strings.NewReader("a")}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.config.Host, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Transport.RoundTrip(request); !errors.Is(err, &kubevend.Error{Reason: "ROLE_NOT_FOUND"}) {
		t.Fatal(err)
	}
	if !body.closed {
		t.Fatal("the body is open")
	}
	s.saw()
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

// A redirect to another server, as a workload behind the API server's proxy can answer with, does not take the token along.
func TestARedirectDoesNotTakeTheTokenAlong(t *testing.T) {
	s := setUp(t)
	s.give("one")
	shown := make(chan string, 1)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		shown <- request.Header.Get("Authorization")
		answer.WriteHeader(http.StatusUnauthorized)
	}))
	defer elsewhere.Close()
	api := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer api.Close()

	if status := s.sends(kubernetes.RESTConfig(s.source, api.URL, ""), nil); status != http.StatusUnauthorized {
		t.Fatal(status)
	}
	if token := <-shown; token != "" {
		t.Fatalf("%q was shown", token)
	}
	if token, err := s.source.Token(context.Background()); err != nil || token.Value() != "one" {
		t.Fatal("the refusal of somebody else counted", token, err)
	}
}

// To client-go a host without a scheme is one without TLS: the token does not go there.
func TestATokenGoesToNoHostInPlainText(t *testing.T) {
	s := setUp(t)
	for _, host := range []string{"10.0.0.1:6443", "http://10.0.0.1:6443"} {
		client, err := rest.HTTPClientFor(kubernetes.RESTConfig(s.source, host, ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = client.Get("http://10.0.0.1:6443/version"); err == nil || !strings.Contains(err.Error(), "give the host as https://10.0.0.1:6443") {
			t.Fatal(err)
		}
	}
}
