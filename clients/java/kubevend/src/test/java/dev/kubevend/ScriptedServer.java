package dev.kubevend;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.rpc.ErrorInfo;
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
import java.util.ArrayList;
import java.util.List;

/** A server of gRPC's own, in this process, that answers on streams what a test says. */
final class ScriptedServer extends IssueServiceGrpc.IssueServiceImplBase implements AutoCloseable {
  /** One stream that a source has opened. */
  record Opened(IssueTokenRequest request, ServerCallStreamObserver<StreamTokensResponse> answers) {}

  final List<Opened> streams = new ArrayList<>();
  private final Server server;
  private final ManagedChannel channel;

  ScriptedServer() throws IOException {
    String name = InProcessServerBuilder.generateName();
    server = InProcessServerBuilder.forName(name).directExecutor().addService(this).build().start();
    channel = InProcessChannelBuilder.forName(name).directExecutor().build();
  }

  ManagedChannel channel() {
    return channel;
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
    last().answers().onNext(StreamTokensResponse.newBuilder().setToken(response(value, lease)).build());
  }

  void revoke(String lease) {
    StreamNotice notice = StreamNotice.newBuilder().setReason("LEASE_REVOKED").setLease(lease).build();
    last().answers().onNext(StreamTokensResponse.newBuilder().setNotice(notice).build());
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

  private static StatusRuntimeException error(Status.Code code, String reason) {
    return StatusProto.toStatusRuntimeException(
        com.google.rpc.Status.newBuilder()
            .setCode(code.value())
            .setMessage("scripted")
            .addDetails(Any.pack(ErrorInfo.newBuilder().setReason(reason).setDomain("kubevend.dev").build()))
            .build());
  }

  @Override
  public void close() {
    channel.shutdownNow();
    server.shutdownNow();
  }
}
