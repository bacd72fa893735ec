package dev.kubevend;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.kubevend.v1.IssueServiceGrpc;
import dev.kubevend.v1.IssueTokenRequest;
import dev.kubevend.v1.IssueTokenResponse;
import dev.kubevend.v1.StreamNotice;
import dev.kubevend.v1.StreamTokensRequest;
import dev.kubevend.v1.StreamTokensResponse;
import io.grpc.ManagedChannel;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.inprocess.InProcessChannelBuilder;
import io.grpc.inprocess.InProcessServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Instant;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** A server of gRPC's own, in this process, that answers on streams what a test says. */
final class ScriptedServer extends IssueServiceGrpc.IssueServiceImplBase implements AutoCloseable {
    /** One stream that a source has opened. */
    record Opened(IssueTokenRequest request, ServerCallStreamObserver<StreamTokensResponse> answers) {}

    final List<Opened> streams = new CopyOnWriteArrayList<>();
    private final Server server;
    private final String name = InProcessServerBuilder.generateName();

    ScriptedServer() throws IOException {
        server = InProcessServerBuilder.forName(name)
                .directExecutor()
                .addService(this)
                .build()
                .start();
    }

    /** Another channel to it. */
    ManagedChannel dial() {
        return InProcessChannelBuilder.forName(name).directExecutor().build();
    }

    /** A client of it, which has to show nothing. */
    Kubevend client() {
        return Kubevend.connect(ConnectionSettings.of("localhost:1").plaintext().build(), this::dial);
    }

    @Override
    public void streamTokens(StreamTokensRequest request, StreamObserver<StreamTokensResponse> answers) {
        var call = (ServerCallStreamObserver<StreamTokensResponse>) answers;
        call.setOnCancelHandler(() -> {});
        streams.add(new Opened(request.getIssue(), call));
    }

    Opened last() {
        return streams.get(streams.size() - 1);
    }

    void token(String value, String lease) {
        last().answers()
                .onNext(StreamTokensResponse.newBuilder()
                        .setToken(response(value, lease))
                        .build());
    }

    /** A token that lives for ten minutes, and the next of which comes after so much of them. */
    void tokenBefore(String value, String lease, java.time.Duration next) {
        long end = 2_000_000_000L;
        StreamTokensResponse answer = StreamTokensResponse.newBuilder()
                .setToken(response(value, lease).toBuilder()
                        .setExpiration(Timestamp.newBuilder().setSeconds(end)))
                .setNextTokenTime(Timestamp.newBuilder().setSeconds(end - 600 + next.toSeconds()))
                .build();
        last().answers().onNext(answer);
    }

    /** A token that lives for ten minutes, and ends then by a clock of the server's. */
    void tokenThatEnds(String value, String lease, Instant end) {
        IssueTokenResponse issued = response(value, lease).toBuilder()
                .setExpiration(Timestamp.newBuilder().setSeconds(end.getEpochSecond()))
                .build();
        last().answers()
                .onNext(StreamTokensResponse.newBuilder().setToken(issued).build());
    }

    /** A failure that says when to come back. */
    void throttle(java.time.Duration delay) {
        Duration wait = Duration.newBuilder().setSeconds(delay.toSeconds()).build();
        Any retry = Any.pack(RetryInfo.newBuilder().setRetryDelay(wait).build());
        last().answers().onError(error(Status.Code.RESOURCE_EXHAUSTED, "ROLE_LIMIT", retry));
    }

    void notice(String reason, String lease) {
        StreamNotice notice =
                StreamNotice.newBuilder().setReason(reason).setLease(lease).build();
        last().answers()
                .onNext(StreamTokensResponse.newBuilder().setNotice(notice).build());
    }

    void revoke(String lease) {
        notice("LEASE_REVOKED", lease);
        last().answers().onError(error(Status.Code.ABORTED, "LEASE_REVOKED"));
    }

    void fail(Status.Code code, String reason) {
        last().answers().onError(error(code, reason));
    }

    static IssueTokenResponse response(String value, String lease) {
        return IssueTokenResponse.newBuilder()
                .setToken(value)
                .setLease(lease)
                .setGrantedTtl(Duration.newBuilder().setSeconds(600))
                .build();
    }

    private static StatusRuntimeException error(Status.Code code, String reason, Any... more) {
        return StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                .setCode(code.value())
                .setMessage("scripted")
                .addDetails(Any.pack(ErrorInfo.newBuilder()
                        .setReason(reason)
                        .setDomain("kubevend.dev")
                        .build()))
                .addAllDetails(List.of(more))
                .build());
    }

    @Override
    public void close() {
        server.shutdownNow();
    }
}
