package dev.kubevend;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.RetryInfo;
import dev.kubevend.v1.IssueServiceGrpc;
import dev.kubevend.v1.IssueTokenRequest;
import dev.kubevend.v1.IssueTokenResponse;
import dev.kubevend.v1.StreamTokensRequest;
import dev.kubevend.v1.StreamTokensResponse;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** What is on the wire, with a server on the loopback. */
class TransportTest {
    private final List<IssueTokenRequest> issued = new CopyOnWriteArrayList<>();
    private final LinkedBlockingQueue<Status.Code> streamsEnd = new LinkedBlockingQueue<>();
    private final Set<String> agents = ConcurrentHashMap.newKeySet();
    private final LinkedBlockingQueue<Throwable> failures = new LinkedBlockingQueue<>();
    private int streams;
    private Server server;
    private Kubevend client;

    /** Fails as it is told, and then issues. */
    private final class Issuing extends IssueServiceGrpc.IssueServiceImplBase {
        @Override
        public void issueToken(IssueTokenRequest request, StreamObserver<IssueTokenResponse> answers) {
            issued.add(request);
            Throwable failure = failures.poll();
            if (failure != null) {
                answers.onError(failure);
            } else {
                answers.onNext(ScriptedServer.response("one", "leases/1"));
                answers.onCompleted();
            }
        }

        @Override
        public void streamTokens(StreamTokensRequest request, StreamObserver<StreamTokensResponse> answers) {
            streams++;
            answers.onError(Status.UNAVAILABLE.asRuntimeException());
        }
    }

    private final class Agents implements ServerInterceptor {
        @Override
        public <Q, A> ServerCall.Listener<Q> interceptCall(
                ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
            agents.add(headers.get(Metadata.Key.of("user-agent", Metadata.ASCII_STRING_MARSHALLER)));
            return next.startCall(call, headers);
        }
    }

    @BeforeEach
    void start() throws IOException {
        server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(new Issuing())
                .intercept(new Agents())
                .build()
                .start();
        client = Kubevend.connect(ConnectionSettings.of("127.0.0.1:" + server.getPort())
                .plaintext()
                .build());
    }

    @AfterEach
    void stop() {
        client.close();
        server.shutdownNow();
    }

    private void fail(Status status, int times) {
        for (int time = 0; time < times; time++) {
            failures.add(status.asRuntimeException());
        }
    }

    private KubevendException refusal() {
        return assertThrows(
                KubevendException.class,
                () -> client.issue(TokenRequest.ofRole("ci"), java.time.Duration.ofSeconds(60)));
    }

    @Test
    void aCallThatMeetsUnavailableIsMadeAgainWithItsRequestId() {
        fail(Status.UNAVAILABLE, 3);

        assertEquals("one", client.issue(TokenRequest.ofRole("ci")).value());
        assertEquals(4, issued.size());
        assertEquals(
                1,
                issued.stream().map(IssueTokenRequest::getRequestId).distinct().count());
        assertFalse(issued.get(0).getRequestId().isEmpty());
    }

    @Test
    void itIsMadeFourTimesAtTheMost() {
        fail(Status.UNAVAILABLE, 5);

        assertEquals(Status.Code.UNAVAILABLE, refusal().code());
        assertEquals(4, issued.size());
    }

    @Test
    void nothingElseIsTriedAgain() {
        for (Status status : List.of(
                Status.DEADLINE_EXCEEDED,
                Status.INTERNAL,
                Status.UNKNOWN,
                Status.RESOURCE_EXHAUSTED,
                Status.PERMISSION_DENIED)) {
            issued.clear();
            fail(status, 1);

            assertEquals(status.getCode(), refusal().code());
            assertEquals(1, issued.size(), status.toString());
        }
    }

    @Test
    void aStreamIsNotTriedAgainButBySources() throws InterruptedException {
        client.streaming().streamTokens(StreamTokensRequest.getDefaultInstance(), new StreamObserver<>() {
            @Override
            public void onNext(StreamTokensResponse answer) {}

            @Override
            public void onError(Throwable error) {
                streamsEnd.add(Status.fromThrowable(error).getCode());
            }

            @Override
            public void onCompleted() {}
        });

        assertEquals(Status.Code.UNAVAILABLE, streamsEnd.poll(30, TimeUnit.SECONDS));
        assertEquals(1, streams);
    }

    @Test
    void theServerIsToldWhoCalls() {
        client.issue(TokenRequest.ofRole("ci"));

        assertEquals(1, agents.size());
        assertTrue(agents.iterator().next().startsWith("kubevend-java/0.1.0"), agents.toString());
    }

    @Test
    void whyNobodyCanBeReachedIsTold() {
        server.shutdownNow();

        KubevendException unreachable = refusal();
        assertEquals(Status.Code.UNAVAILABLE, unreachable.code());
        assertTrue(unreachable.getMessage().contains("Connection refused"), unreachable.getMessage());
    }

    @Test
    void anErrorHasAllThatTheServerSays() {
        failures.add(StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                .setCode(Status.Code.INVALID_ARGUMENT.value())
                .setMessage("the TTL is too short")
                .addDetails(Any.pack(ErrorInfo.newBuilder()
                        .setReason("FIELD_INVALID")
                        .putMetadata("field", "ttl")
                        .build()))
                .addDetails(Any.pack(BadRequest.newBuilder()
                        .addFieldViolations(BadRequest.FieldViolation.newBuilder()
                                .setField("ttl")
                                .setDescription("must be 600 s or more"))
                        .build()))
                .addDetails(Any.pack(RetryInfo.newBuilder()
                        .setRetryDelay(Duration.newBuilder().setSeconds(7))
                        .build()))
                .addDetails(
                        Any.pack(RequestInfo.newBuilder().setRequestId("an-id").build()))
                .build()));

        KubevendException refusal = refusal();
        for (KubevendException each : List.of(refusal, refusal.again())) {
            assertEquals(Status.Code.INVALID_ARGUMENT, each.code());
            assertEquals("FIELD_INVALID", each.reason());
            assertEquals("the TTL is too short", each.getMessage());
            assertEquals(Map.of("field", "ttl"), each.metadata());
            assertEquals(List.of(new KubevendException.Violation("ttl", "must be 600 s or more")), each.violations());
            assertEquals(Optional.of(java.time.Duration.ofSeconds(7)), each.retryAfter());
            assertEquals("an-id", each.requestId());
            assertTrue(each.isPermanent());
            assertFalse(each.isLocal());
        }
    }
}
