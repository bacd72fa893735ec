package kubevend_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"kubevend.dev/kubevend"
	"kubevend.dev/kubevend/internal/scripted"
	kubevendv1 "kubevend.dev/kubevend/v1"
)

// calling gives a client whose calls to IssueToken are answered by answer, in a bubble.
func calling(t *testing.T, answer func(context.Context, *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error),
	script func(*kubevend.Client),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := scripted.Start()
		server.Issue = answer
		defer server.Stop()
		client := connected(t, server)
		defer client.Close()
		script(client)
	})
}

// One call gives a token with all that the server says of it; the role's name may be short, and a request id is made.
func TestIssue(t *testing.T) {
	var asked *kubevendv1.IssueTokenRequest
	calling(t, func(_ context.Context, request *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
		asked = request
		return scripted.Token("secret", "leases/one", life), nil
	}, func(client *kubevend.Client) {
		token, err := client.Issue(context.Background(), kubevend.Request{Role: "ci", TTL: time.Hour, MinTTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if token.Value() != "secret" || token.Lease != "leases/one" || token.GrantedTTL != life || token.Namespace != "apps" {
			t.Fatal(token)
		}
		if asked.GetRole() != "roles/ci" || asked.GetTtl().AsDuration() != time.Hour || asked.GetMinTtl().AsDuration() != time.Minute {
			t.Fatal(asked)
		}
		if id := asked.GetRequestId(); len(id) != 36 || id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatal(id)
		}
	})
}

// A call that meets UNAVAILABLE is made four times in all, with one request id; one that meets anything else, once.
func TestOnlyUnavailableIsTriedAgain(t *testing.T) {
	for code, times := range map[codes.Code]int{codes.Unavailable: 4, codes.DeadlineExceeded: 1, codes.Aborted: 1, codes.Unknown: 1} {
		ids := []string{}
		calling(t, func(_ context.Context, request *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
			ids = append(ids, request.GetRequestId())
			return nil, scripted.Refusal(code, "NOT_RECORDED")
		}, func(client *kubevend.Client) {
			_, err := client.Issue(context.Background(), kubevend.Request{Role: "ci"})
			if status.Code(err) != code || len(ids) != times || ids[0] != ids[len(ids)-1] {
				t.Fatal(code, err, ids)
			}
		})
	}
}

// A call without a deadline has one of ten seconds; one with its own keeps that, and tells that it was this side's.
func TestEachCallHasADeadline(t *testing.T) {
	calling(t, func(ctx context.Context, _ *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, func(client *kubevend.Client) {
		for _, patience := range []time.Duration{0, time.Second, time.Minute} {
			ctx, cancel := context.Background(), context.CancelFunc(func() {})
			if patience != 0 {
				ctx, cancel = context.WithTimeout(ctx, patience)
			}
			began := time.Now()
			_, err := client.Issue(ctx, kubevend.Request{Role: "ci"})
			cancel()
			if patience == 0 {
				patience = kubevend.DefaultTimeout
			}
			between(t, time.Since(began), patience, patience)
			if !errors.Is(err, context.DeadlineExceeded) || status.Code(err) != codes.DeadlineExceeded {
				t.Fatal(err)
			}
		}
	})
}

// An error has all that the server says, for errors.As, errors.Is and gRPC's own status.
func TestAnErrorHasAllThatTheServerSays(t *testing.T) {
	field := &errdetails.BadRequest_FieldViolation{Field: "ttl", Description: "must be whole seconds"}
	details := []interface {
		Reset()
		String() string
		ProtoMessage()
	}{
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{field}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)}, &errdetails.RequestInfo{RequestId: "r-1"},
	}
	calling(t, func(context.Context, *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
		return nil, scripted.Refusal(codes.PermissionDenied, "ACCESS_DENIED", details[0], details[1], details[2])
	}, func(client *kubevend.Client) {
		_, err := client.Issue(context.Background(), kubevend.Request{Role: "ci"})
		err = fmt.Errorf("no credential: %w", err)
		var told *kubevend.Error
		if !errors.As(err, &told) {
			t.Fatal(err)
		}
		if told.Code != codes.PermissionDenied || told.Reason != "ACCESS_DENIED" || told.Message != "do something else" ||
			told.Metadata["role"] != "roles/ci" || told.RetryAfter != 3*time.Second || told.RequestID != "r-1" ||
			len(told.Violations) != 1 || told.Violations[0] != (kubevend.Violation{Field: "ttl", Description: "must be whole seconds"}) ||
			!told.Permanent() || told.Local {
			t.Fatalf("%+v", *told)
		}
		for _, same := range []error{kubevend.ErrPermissionDenied, &kubevend.Error{Reason: "ACCESS_DENIED"}} {
			if !errors.Is(err, same) {
				t.Fatal(same)
			}
		}
		for _, other := range []error{kubevend.ErrNotFound, kubevend.ErrClosed, &kubevend.Error{Reason: "ROLE_NOT_FOUND"}} {
			if errors.Is(err, other) {
				t.Fatal(other)
			}
		}
		if found, ok := status.FromError(err); !ok || found.Code() != codes.PermissionDenied || len(found.Details()) != 4 {
			t.Fatal(found)
		}
		if err.Error() != "no credential: kubevend: ACCESS_DENIED: do something else" {
			t.Fatal(err)
		}
	})
}

// The generated clients fail with the same errors, and a closed client says so.
func TestTheGeneratedClientsFailTheSame(t *testing.T) {
	calling(t, nil, func(client *kubevend.Client) {
		_, err := client.Leases.GetLease(context.Background(), &kubevendv1.GetLeaseRequest{})
		var told *kubevend.Error
		if !errors.As(err, &told) || told.Code != codes.Unimplemented {
			t.Fatal(err)
		}
		_ = client.Close()
		if _, err := client.WhoAmI(context.Background()); !errors.Is(err, &kubevend.Error{Reason: "CLIENT_CLOSED"}) {
			t.Fatal(err)
		}
	})
}

// Nothing but Value shows a token: no verb, no encoder, no logger, no matter what it is wrapped in.
func TestATokenIsNotShown(t *testing.T) {
	calling(t, func(context.Context, *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
		return scripted.Token("secret", "leases/one", life), nil
	}, func(client *kubevend.Client) {
		token, err := client.Issue(context.Background(), kubevend.Request{Role: "ci"})
		if err != nil {
			t.Fatal(err)
		}
		type holder struct {
			Shown  *kubevend.Token
			Copied kubevend.Token
			hidden kubevend.Token
		}
		var said bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			for _, what := range []any{token, *token, holder{token, *token, *token}, &holder{token, *token, *token}, []*kubevend.Token{token}} {
				fmt.Fprintf(&said, verb+"\n", what)
			}
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&said, nil), slog.NewJSONHandler(&said, nil)} {
			slog.New(handler).Info("got one", "token", token, "copy", *token, "holder", holder{token, *token, *token})
		}
		encoded, err := json.Marshal(holder{Shown: token, Copied: *token})
		if err != nil {
			t.Fatal(err)
		}
		said.Write(encoded)
		if strings.Contains(said.String(), "secret") || strings.Contains(said.String(), fmt.Sprintf("%x", "secret")) {
			t.Fatal(said.String())
		}
		if !strings.Contains(string(encoded), "leases/one") || !strings.Contains(fmt.Sprint(token), "leases/one, apps/demo") {
			t.Fatal(string(encoded), token)
		}
		if (kubevend.Token{}).Value() != "" {
			t.Fatal("a token out of nothing")
		}
	})
}

// What is wrong with settings is told before anything is asked, with what to do about it.
func TestWhatIsWrongWithSettingsIsTold(t *testing.T) {
	folder := t.TempDir()
	there, missing := filepath.Join(folder, "there"), filepath.Join(folder, "missing")
	if err := os.WriteFile(there, []byte("two words"), 0o600); err != nil {
		t.Fatal(err)
	}
	for says, settings := range map[string]kubevend.Settings{
		"KUBEVEND_ADDRESS": {},
		"host:port":        {Address: "kubevend"},
		"CLIENT_KEY_FILE":  {Address: "a:1", ClientCertFile: there},
		"one identity":     {Address: "a:1", ClientCertFile: there, ClientKeyFile: there, TokenFile: there},
		"loopback":         {Address: "192.0.2.1:1", Plaintext: true},
		"without TLS":      {Address: "localhost:1", Plaintext: true, CAFile: there},
	} {
		_, err := kubevend.Connect(settings)
		if !errors.Is(err, &kubevend.Error{Reason: "SETTINGS_INVALID"}) || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", settings, err)
		}
	}
	for says, settings := range map[string]kubevend.Settings{
		"KUBEVEND_TOKEN_FILE":        {Address: "a:1", TokenFile: missing},
		"no token in " + there:       {Address: "a:1", TokenFile: there},
		"KUBEVEND_CA_FILE":           {Address: "a:1", CAFile: missing},
		"no certificate in " + there: {Address: "a:1", CAFile: there},
		"KUBEVEND_CLIENT_CERT_FILE":  {Address: "a:1", ClientCertFile: there, ClientKeyFile: missing},
	} {
		_, err := kubevend.Connect(settings)
		var told *kubevend.Error
		if !errors.As(err, &told) || told.Reason != "FILE_UNREADABLE" || !told.Local || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", settings, err)
		}
	}
}

// The environment says where kubevend is, and what to show it.
func TestTheEnvironmentIsRead(t *testing.T) {
	for name, value := range map[string]string{
		"ADDRESS": "a:1", "CA_FILE": "ca", "TOKEN_FILE": "token", "CLIENT_CERT_FILE": "cert", "CLIENT_KEY_FILE": "key",
	} {
		t.Setenv("KUBEVEND_"+name, value)
	}
	want := kubevend.Settings{Address: "a:1", CAFile: "ca", TokenFile: "token", ClientCertFile: "cert", ClientKeyFile: "key"}
	if found := kubevend.FromEnvironment(); found != want {
		t.Fatalf("%+v", found)
	}
}

// A token file that is replaced is shown from the next call on; one that is gone is told of; nothing else is shown.
func TestATokenFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	put := func(token string) {
		if err := os.WriteFile(path+".new", []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put("first")
	var shown, agent []string
	server := scripted.Start()
	defer server.Stop()
	server.Issue = func(ctx context.Context, _ *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
		headers, _ := metadata.FromIncomingContext(ctx)
		shown, agent = headers["authorization"], headers["user-agent"]
		return scripted.Token("secret", "leases/one", life), nil
	}
	settings := kubevend.Settings{Address: "127.0.0.1:1", Plaintext: true, TokenFile: path}
	client, err := kubevend.Connect(settings, grpc.WithContextDialer(server.Dial))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, token := range []string{"first", "second"} {
		put(token)
		if _, err := client.Issue(context.Background(), kubevend.Request{Role: "ci"}); err != nil {
			t.Fatal(err)
		}
		if len(shown) != 1 || shown[0] != "Bearer "+token || !strings.HasPrefix(agent[0], "kubevend-go/"+kubevend.Version+" ") {
			t.Fatal(shown, agent)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	source := kubevend.NewTokenSource(client, kubevend.Request{Role: "ci"})
	defer source.Close()
	if _, err := source.Token(context.Background()); !errors.Is(err, &kubevend.Error{Reason: "FILE_UNREADABLE"}) || !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
