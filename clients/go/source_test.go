package kubevend_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"kubevend.dev/kubevend"
	"kubevend.dev/kubevend/internal/scripted"
)

const life = 10 * time.Minute

// stage is a source, and the server that it asks, in a bubble in which time passes when all wait. That nothing is left
// running when a test has closed them is what the bubble itself sees to.
type stage struct {
	*testing.T
	server *scripted.Server
	client *kubevend.Client
	source *kubevend.TokenSource
}

func play(t *testing.T, script func(*stage), options ...kubevend.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := scripted.Start()
		client := connected(t, server)
		s := &stage{t, server, client, kubevend.NewTokenSource(client, kubevend.Request{Role: "ci"}, options...)}
		defer server.Stop()
		defer client.Close()
		defer s.source.Close()
		script(s)
	})
}

func connected(t *testing.T, server *scripted.Server) *kubevend.Client {
	t.Helper()
	settings := kubevend.Settings{Address: "127.0.0.1:1", Plaintext: true}
	client, err := kubevend.Connect(settings, grpc.WithContextDialer(server.Dial))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// within asks for a token, and waits so long.
func (s *stage) within(patience time.Duration) (*kubevend.Token, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.source.Token(ctx)
}

// has fails unless this is the token that comes, in a second.
func (s *stage) has(value string) *kubevend.Token {
	s.Helper()
	token, err := s.within(time.Second)
	if err != nil {
		s.Fatalf("no token: %v", err)
	}
	if token.Value() != value {
		s.Fatalf("%s, not %s", token.Value(), value)
	}
	return token
}

// failed fails unless asking fails with this code and reason; it gives the error, and how long that took.
func (s *stage) failed(patience time.Duration, code codes.Code, reason string) (*kubevend.Error, time.Duration) {
	s.Helper()
	began := time.Now()
	token, err := s.within(patience)
	var told *kubevend.Error
	if !errors.As(err, &told) {
		s.Fatalf("%v, not an error (%v)", token, err)
	}
	if told.Code != code || told.Reason != reason {
		s.Fatalf("%s %s, not %s %s", told.Code, told.Reason, code, reason)
	}
	return told, time.Since(began)
}

// first lets the source have its first token, and gives the stream.
func (s *stage) first(value string) *scripted.Stream {
	s.Helper()
	began := make(chan struct{})
	go func() {
		defer close(began)
		_, _ = s.within(time.Second)
	}()
	stream := s.server.Next()
	stream.Token(value, "leases/"+value, life)
	<-began
	s.has(value)
	return stream
}

// next gives the next stream, and how long it took to come.
func (s *stage) next() (*scripted.Stream, time.Duration) {
	began := time.Now()
	return s.server.Next(), time.Since(began)
}

func between(t *testing.T, what, least, most time.Duration) {
	t.Helper()
	if what < least || what > most {
		t.Fatalf("%s, not between %s and %s", what, least, most)
	}
}

// Nothing is asked for before the first use, and fifty who ask at once share one stream.
func TestAllShareOneStream(t *testing.T) {
	play(t, func(s *stage) {
		time.Sleep(time.Hour)
		if s.server.Dials() != 0 {
			t.Fatal("it connects although nobody has asked")
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { s.has("one") })
		}
		s.server.Next().Token("one", "leases/one", life)
		all.Wait()
		synctest.Wait()
		if s.server.Opened() != 0 {
			t.Fatal("more than one stream")
		}
	})
}

// The next token takes the place of the one before, on the same stream.
func TestTheNextTokenTakesThePlaceOfTheOneBefore(t *testing.T) {
	var renewed []string
	note := kubevend.OnRenewed(func(token *kubevend.Token) { renewed = append(renewed, token.Value()) })
	play(t, func(s *stage) {
		stream := s.first("one")
		time.Sleep(life * 2 / 3)
		stream.Token("two", "leases/two", life)
		synctest.Wait()
		s.has("two")
		if len(renewed) != 2 || renewed[1] != "two" {
			t.Fatal(renewed)
		}
	}, note)
}

// A token is handed out until ten seconds before its end by this side's clock, whatever the times that the server tells.
func TestATokensLifeIsCountedFromItsArrival(t *testing.T) {
	play(t, func(s *stage) {
		s.first("one")
		s.server.Away(true)
		time.Sleep(life - 10*time.Second - time.Millisecond)
		s.has("one")
		time.Sleep(time.Millisecond)
		s.failed(time.Second, codes.Unavailable, "")
	})
}

// While the server is away the token that is held is served, and the pauses between two attempts grow to half a minute.
func TestAnOutageIsBridged(t *testing.T) {
	play(t, func(s *stage) {
		s.first("one")
		s.server.Away(true)
		time.Sleep(life / 2)
		s.has("one")
		s.server.Away(false)
		stream, pause := s.next()
		between(t, pause, 0, 45*time.Second)
		stream.Token("two", "leases/one", life)
		synctest.Wait()
		s.has("two")
	})
}

// A stream that ends because its server stops is opened again at once, with the request id that it had.
func TestAServerThatStopsIsReplacedAtOnce(t *testing.T) {
	play(t, func(s *stage) {
		stream := s.first("one")
		stream.End(scripted.Refusal(codes.Unavailable, "SERVER_STOPPING"))
		again, pause := s.next()
		if pause != 0 || again.Request.GetRequestId() != stream.Request.GetRequestId() || stream.Request.GetRequestId() == "" {
			t.Fatal(pause, again.Request.GetRequestId(), stream.Request.GetRequestId())
		}
	})
}

// A refusal that another attempt alone does not change is told at once, and asked about again from five seconds on.
func TestAPermanentRefusalIsToldAtOnce(t *testing.T) {
	for _, code := range []codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition,
		codes.Unimplemented,
	} {
		play(t, func(s *stage) {
			go func() { s.server.Next().End(scripted.Refusal(code, "ACCESS_DENIED")) }()
			told, took := s.failed(time.Hour, code, "ACCESS_DENIED")
			if took != 0 || told.Metadata["role"] != "roles/ci" {
				t.Fatal(took, told.Metadata)
			}
			stream, pause := s.next()
			between(t, pause, 5*time.Second, 10*time.Second)
			stream.Token("one", "leases/one", life)
			synctest.Wait()
			s.has("one")
		})
	}
}

// After a temporary failure it is tried again until the caller's patience ends, who then learns of the last failure.
func TestATemporaryFailureIsTriedAgain(t *testing.T) {
	play(t, func(s *stage) {
		go func() {
			for range 3 {
				s.server.Next().End(scripted.Refusal(codes.ResourceExhausted, "ROLE_LIMIT"))
			}
		}()
		told, took := s.failed(4*time.Second, codes.ResourceExhausted, "ROLE_LIMIT")
		if took != 4*time.Second || !errors.Is(told, context.DeadlineExceeded) {
			t.Fatal(took, told.Unwrap())
		}
		s.server.Next().Token("one", "leases/one", life)
		synctest.Wait()
		s.has("one")
	})
}

// Where the server says when to come back, no one comes sooner.
func TestTheServersDelayIsKept(t *testing.T) {
	play(t, func(s *stage) {
		wait := &errdetails.RetryInfo{RetryDelay: durationpb.New(90 * time.Second)}
		s.first("one").End(scripted.Refusal(codes.ResourceExhausted, "CALLER_LIMIT", wait))
		_, pause := s.next()
		between(t, pause, 90*time.Second, 90*time.Second)
	})
}

// Who gives up is told that, where nothing is known of the server.
func TestWhoGivesUpIsToldThat(t *testing.T) {
	play(t, func(s *stage) {
		told, _ := s.failed(time.Second, codes.DeadlineExceeded, "")
		if !errors.Is(told, context.DeadlineExceeded) {
			t.Fatal(told.Unwrap())
		}
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := s.source.Token(gone); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

// A stream that brings nothing is taken for dead: after half a minute at first, after 85 % of a token's life later.
func TestASilentStreamIsTakenForDead(t *testing.T) {
	play(t, func(s *stage) {
		go func() { _, _ = s.within(time.Second) }()
		silent, _ := s.next()
		stream, waited := s.next()
		between(t, waited, 30*time.Second, 30*time.Second)
		<-silent.Gone()
		stream.Token("one", "leases/one", life)
		_, waited = s.next()
		between(t, waited, life*85/100, life*85/100)
		s.has("one")
	})
}

// Where the server means to send the next token late, it has half of what is left by then.
func TestALateTokenIsWaitedFor(t *testing.T) {
	play(t, func(s *stage) {
		go func() { _, _ = s.within(time.Second) }()
		s.server.Next().TokenBefore("one", "leases/one", life, life*9/10)
		_, waited := s.next()
		between(t, waited, life*95/100, life*95/100)
	})
}

// A connection on which nothing goes through any more is noticed within 40 seconds, and another one is opened.
func TestADeadConnectionIsNoticed(t *testing.T) {
	play(t, func(s *stage) {
		s.first("one")
		s.server.Freeze()
		stream, waited := s.next()
		between(t, waited, 10*time.Second, 75*time.Second)
		stream.Token("two", "leases/one", life)
		synctest.Wait()
		s.has("two")
	})
}

// A revoked lease's token is given up and told of, and another one is asked for under another request id.
func TestARevocationIsTold(t *testing.T) {
	var revoked []string
	note := kubevend.OnRevoked(func(lease, message string) { revoked = append(revoked, lease, message) })
	play(t, func(s *stage) {
		stream := s.first("one")
		stream.Notice("LEASE_REVOKED", "leases/one")
		again, pause := s.next()
		if pause != 0 || again.Request.GetRequestId() == stream.Request.GetRequestId() {
			t.Fatal(pause)
		}
		again.Token("two", "leases/two", life)
		synctest.Wait()
		s.has("two")
		if len(revoked) != 2 || revoked[0] != "leases/one" || revoked[1] != "it was so" {
			t.Fatal(revoked)
		}
	}, note)
}

// A revocation counts where its notice was lost, too; once.
func TestARevocationWithoutItsNoticeCounts(t *testing.T) {
	var revoked []string
	note := kubevend.OnRevoked(func(lease, _ string) { revoked = append(revoked, lease) })
	play(t, func(s *stage) {
		s.first("one").End(scripted.Refusal(codes.Aborted, "LEASE_REVOKED"))
		again, _ := s.next()
		again.End(scripted.Refusal(codes.PermissionDenied, "ACCESS_DENIED"))
		s.failed(time.Hour, codes.PermissionDenied, "ACCESS_DENIED")
		synctest.Wait()
		if len(revoked) != 1 || revoked[0] != "leases/one" {
			t.Fatal(revoked)
		}
	}, note)
}

// That no further token is allowed is told once, and the one that is held is handed out until its end.
func TestARefusalIsToldAndTheTokenKept(t *testing.T) {
	var refused []string
	note := kubevend.OnRefused(func(refusal *kubevend.Error) { refused = append(refused, refusal.Reason) })
	play(t, func(s *stage) {
		stream := s.first("one")
		stream.Notice("ROLE_NOT_FOUND", "leases/one")
		for range 2 {
			stream.End(scripted.Refusal(codes.NotFound, "ROLE_NOT_FOUND"))
			stream, _ = s.next()
			s.has("one")
		}
		synctest.Wait()
		if len(refused) != 1 || refused[0] != "ROLE_NOT_FOUND" {
			t.Fatal(refused)
		}
	}, note)
}

// A request id that the server refuses is replaced at once, the second time in a row after a pause.
func TestARefusedRequestIDIsReplaced(t *testing.T) {
	play(t, func(s *stage) {
		first := s.first("one")
		first.End(scripted.Refusal(codes.FailedPrecondition, "REQUEST_ID_LEASE_ENDED"))
		second, pause := s.next()
		if pause != 0 || second.Request.GetRequestId() == first.Request.GetRequestId() {
			t.Fatal(pause)
		}
		second.End(scripted.Refusal(codes.FailedPrecondition, "REQUEST_ID_LEASE_ENDED"))
		_, pause = s.next()
		between(t, pause, 5*time.Second, 10*time.Second)
	})
}

// One that another process is at is kept.
func TestARequestIDInProgressIsKept(t *testing.T) {
	play(t, func(s *stage) {
		first := s.first("one")
		first.End(scripted.Refusal(codes.Aborted, "REQUEST_ID_IN_PROGRESS"))
		second, _ := s.next()
		if second.Request.GetRequestId() != first.Request.GetRequestId() {
			t.Fatal("another one")
		}
	})
}

// A token that somebody saw refused is given up, and another lease's fetched; one that is no longer the current one is not.
func TestInvalidateFetchesAnother(t *testing.T) {
	play(t, func(s *stage) {
		stream := s.first("one")
		first := s.has("one")
		s.source.Invalidate(first)
		again, pause := s.next()
		<-stream.Gone()
		if pause != 0 || again.Request.GetRequestId() == stream.Request.GetRequestId() {
			t.Fatal(pause)
		}
		again.Token("two", "leases/two", life)
		synctest.Wait()
		s.source.Invalidate(first)
		s.source.Invalidate(nil)
		s.has("two")
	})
}

// Tokens that are refused as soon as they come are not fetched in a flood.
func TestTokensThatAreOfNoUseAreFetchedEverSlower(t *testing.T) {
	play(t, func(s *stage) {
		s.first("one")
		began := time.Now()
		for range 12 {
			token, err := s.within(time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			s.source.Invalidate(token)
			stream, _ := s.next()
			stream.Token("next", "leases/next", life)
			synctest.Wait()
		}
		between(t, time.Since(began), 10*time.Second, time.Hour)
	})
}

// A stream whose caller's credential ended is opened again at once: its file has the next one.
func TestACredentialThatEndedIsReplaced(t *testing.T) {
	play(t, func(s *stage) {
		s.first("one").End(scripted.Refusal(codes.Unauthenticated, "TOKEN_EXPIRED"))
		again, pause := s.next()
		if pause != 0 {
			t.Fatal(pause)
		}
		again.End(scripted.Refusal(codes.Unauthenticated, "TOKEN_EXPIRED"))
		_, pause = s.next()
		between(t, pause, 5*time.Second, 10*time.Second)
		s.has("one")
	})
}

// Close ends who waits, promptly, and whoever asks later; more than once does no harm, nor before the first use.
func TestCloseEndsWhoWaits(t *testing.T) {
	play(t, func(s *stage) {
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if told, took := s.failed(time.Hour, codes.Canceled, "SOURCE_CLOSED"); took != time.Second || !errors.Is(told, kubevend.ErrClosed) {
					t.Error(took, told)
				}
			})
		}
		time.Sleep(time.Second)
		_ = s.source.Close()
		all.Wait()
		_ = s.source.Close()
		s.failed(time.Hour, codes.Canceled, "SOURCE_CLOSED")
		unused := kubevend.NewTokenSource(s.client, kubevend.Request{Role: "ci"})
		_ = unused.Close()
		if _, err := unused.Token(context.Background()); !errors.Is(err, kubevend.ErrClosed) {
			t.Error(err)
		}
	})
}

// A source ends while it pauses, too, and one whose token is held hands it out no longer.
func TestCloseEndsAPause(t *testing.T) {
	play(t, func(s *stage) {
		s.server.Away(true)
		s.failed(time.Minute, codes.Unavailable, "")
		began := time.Now()
		_ = s.source.Close()
		between(t, time.Since(began), 0, 0)
	})
}

// A listener that panics, blocks or closes the source keeps no token from coming; a panic is logged.
func TestListenersDoNoHarm(t *testing.T) {
	var logged bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
	defer slog.SetDefault(before)
	synctest.Test(t, func(t *testing.T) {
		var source *kubevend.TokenSource
		release, closed := make(chan struct{}), make(chan struct{})
		fails := kubevend.OnRenewed(func(token *kubevend.Token) { panic(token) })
		closes := kubevend.OnRenewed(func(*kubevend.Token) {
			<-release
			_ = source.Close()
			close(closed)
		})
		server := scripted.Start()
		defer server.Stop()
		client := connected(t, server)
		defer client.Close()
		source = kubevend.NewTokenSource(client, kubevend.Request{Role: "ci"}, fails, closes)
		s := &stage{t, server, client, source}
		stream := s.first("one")
		stream.Notice("LEASE_REVOKED", "leases/one")
		stream, _ = s.next()
		stream.Token("two", "leases/two", life)
		synctest.Wait()
		s.has("two")
		release <- struct{}{}
		<-closed
		s.failed(time.Hour, codes.Canceled, "SOURCE_CLOSED")
		closed = make(chan struct{})
		close(release)
	})
	if !strings.Contains(logged.String(), "panicked") || strings.Contains(logged.String(), "fault=one") {
		t.Fatal(logged.String())
	}
}

// A source of OAuth 2.0 tokens has the same token, which ends by this machine's clock, and waits for one for ten seconds.
func TestOAuth2(t *testing.T) {
	play(t, func(s *stage) {
		s.server.Away(true)
		began := time.Now()
		if _, err := s.source.OAuth2(context.Background()).Token(); !errors.Is(err, kubevend.ErrUnavailable) {
			t.Fatal(err)
		}
		between(t, time.Since(began), kubevend.DefaultTimeout, kubevend.DefaultTimeout)
		s.server.Away(false)
		stream, _ := s.next()
		stream.Token("one", "leases/one", life)
		synctest.Wait()
		token, err := s.source.OAuth2(context.Background()).Token()
		if err != nil || token.AccessToken != "one" || time.Until(token.Expiry) != life || !token.Valid() {
			t.Fatal(token.Expiry, err)
		}
	})
}
