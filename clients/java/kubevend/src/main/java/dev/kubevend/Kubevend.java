package dev.kubevend;

import dev.kubevend.v1.ConfigServiceGrpc;
import dev.kubevend.v1.IdentityServiceGrpc;
import dev.kubevend.v1.IssueServiceGrpc;
import dev.kubevend.v1.LeaseServiceGrpc;
import dev.kubevend.v1.RoleServiceGrpc;
import dev.kubevend.v1.WhoAmIRequest;
import dev.kubevend.v1.WhoAmIResponse;
import io.grpc.CallCredentials;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.AbstractStub;
import io.grpc.util.AdvancedTlsX509KeyManager;
import io.grpc.util.AdvancedTlsX509TrustManager;
import java.io.File;
import java.io.IOException;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/**
 * A connection to a kubevend server. Safe for use by many threads; one for a process is enough.
 *
 * <pre>{@code
 * try (Kubevend kubevend = Kubevend.connect(ConnectionSettings.fromEnvironment())) {
 *   Token token = kubevend.issue(TokenRequest.ofRole("quickstart"));
 * }
 * }</pre>
 */
public final class Kubevend implements AutoCloseable {
  /** How long a call may take that has one answer. */
  public static final Duration DEFAULT_TIMEOUT = Duration.ofSeconds(10);

  static final String USER_AGENT = "kubevend-java/0.1.0";

  // Of a call that has ended with DEADLINE_EXCEEDED nobody knows what became of it, so it is never made again.
  private static final Map<String, Object> SERVICE_CONFIG =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name",
                  List.of(Map.of()),
                  "retryPolicy",
                  Map.of(
                      "maxAttempts", 4.0,
                      "initialBackoff", "0.2s",
                      "maxBackoff", "2s",
                      "backoffMultiplier", 2.0,
                      "retryableStatusCodes", List.of("UNAVAILABLE")))));

  private final ManagedChannel channel;
  private final CallCredentials credentials;
  private final Deque<AutoCloseable> resources = new ArrayDeque<>();

  private Kubevend(ConnectionSettings settings) throws IOException, GeneralSecurityException {
    this.credentials = settings.tokenFile().<CallCredentials>map(TokenFileCredentials::new).orElse(null);
    this.channel =
        Grpc.newChannelBuilder(settings.address(), transport(settings))
            .userAgent(USER_AGENT)
            .disableServiceConfigLookUp()
            .defaultServiceConfig(SERVICE_CONFIG)
            .enableRetry()
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
  }

  Kubevend(ManagedChannel channel) {
    this.channel = channel;
    this.credentials = null;
  }

  /**
   * Prepares a connection; it is opened with the first call.
   *
   * @param settings where to, and as whom
   * @return the connection
   * @throws KubevendException a file that the settings name cannot be used
   */
  public static Kubevend connect(ConnectionSettings settings) {
    try {
      return new Kubevend(settings);
    } catch (IOException | GeneralSecurityException unusable) {
      throw KubevendException.local(
          Status.Code.FAILED_PRECONDITION,
          "FILE_UNUSABLE",
          "A file of the connection cannot be used: " + unusable + ". Keys are PEM, PKCS #8.",
          unusable);
    }
  }

  /**
   * Has a token issued. Safe to be made again: it has a request id.
   *
   * @param request what it is to be
   * @return the token
   * @throws KubevendException it was refused, or failed
   */
  public Token issue(TokenRequest request) {
    return issue(request, DEFAULT_TIMEOUT);
  }

  /**
   * Has a token issued.
   *
   * @param request what it is to be
   * @param timeout how long to wait
   * @return the token
   * @throws KubevendException it was refused, or failed
   */
  public Token issue(TokenRequest request, Duration timeout) {
    try {
      return new Token(within(issueService(), timeout).issueToken(request.toMessage()));
    } catch (StatusRuntimeException refused) {
      throw KubevendException.of(refused);
    }
  }

  /**
   * Asks who kubevend takes this caller for.
   *
   * @return its name, and what it may do
   * @throws KubevendException it was refused, or failed
   */
  public WhoAmIResponse whoAmI() {
    try {
      IdentityServiceGrpc.IdentityServiceBlockingStub stub = with(IdentityServiceGrpc.newBlockingStub(channel));
      return within(stub, DEFAULT_TIMEOUT).whoAmI(WhoAmIRequest.getDefaultInstance());
    } catch (StatusRuntimeException refused) {
      throw KubevendException.of(refused);
    }
  }

  /**
   * A source that keeps one token that is good. It asks for the first when it is first asked.
   *
   * @param request what its tokens are to be
   * @return the source, which is to be closed
   */
  public TokenSource tokenSource(TokenRequest request) {
    return new TokenSource(this, request, Timers.ofDaemonThread());
  }

  /**
   * The generated client, for tokens.
   *
   * @return a stub; give it a deadline
   */
  public IssueServiceGrpc.IssueServiceBlockingStub issueService() {
    return with(IssueServiceGrpc.newBlockingStub(channel));
  }

  /**
   * The generated client, for leases.
   *
   * @return a stub; give it a deadline
   */
  public LeaseServiceGrpc.LeaseServiceBlockingStub leaseService() {
    return with(LeaseServiceGrpc.newBlockingStub(channel));
  }

  /**
   * The generated client, for roles.
   *
   * @return a stub; give it a deadline
   */
  public RoleServiceGrpc.RoleServiceBlockingStub roleService() {
    return with(RoleServiceGrpc.newBlockingStub(channel));
  }

  /**
   * The generated client, for configs.
   *
   * @return a stub; give it a deadline
   */
  public ConfigServiceGrpc.ConfigServiceBlockingStub configService() {
    return with(ConfigServiceGrpc.newBlockingStub(channel));
  }

  IssueServiceGrpc.IssueServiceStub streaming() {
    return with(IssueServiceGrpc.newStub(channel));
  }

  Channel channel() {
    return channel;
  }

  /** Ends what is under way, and the connection. */
  @Override
  public void close() {
    channel.shutdownNow();
    while (!resources.isEmpty()) {
      try {
        resources.pop().close();
      } catch (Exception impossible) {
        throw new IllegalStateException(impossible);
      }
    }
  }

  private <S extends AbstractStub<S>> S with(S stub) {
    return credentials == null ? stub : stub.withCallCredentials(credentials);
  }

  private static <S extends AbstractStub<S>> S within(S stub, Duration timeout) {
    return stub.withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS);
  }

  private ChannelCredentials transport(ConnectionSettings settings) throws IOException, GeneralSecurityException {
    if (settings.plaintext()) {
      return InsecureChannelCredentials.create();
    }
    TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
    if (settings.caFile().isPresent()) {
      AdvancedTlsX509TrustManager trust = AdvancedTlsX509TrustManager.newBuilder().build();
      File file = settings.caFile().get().toFile();
      keep(trust.updateTrustCredentials(file, 1, TimeUnit.MINUTES, reader()));
      tls.trustManager(trust);
    }
    if (settings.clientCertFile().isPresent()) {
      AdvancedTlsX509KeyManager key = new AdvancedTlsX509KeyManager();
      File certificate = settings.clientCertFile().get().toFile();
      keep(
          key.updateIdentityCredentials(
              certificate, settings.clientKeyFile().orElseThrow().toFile(), 1, TimeUnit.MINUTES, reader()));
      tls.keyManager(key);
    }
    return tls.build();
  }

  private ScheduledExecutorService reader() {
    ScheduledExecutorService reader =
        Executors.newSingleThreadScheduledExecutor(task -> Timers.daemon("kubevend-files", task));
    keep(reader::shutdownNow);
    return reader;
  }

  private void keep(AutoCloseable resource) {
    resources.push(resource);
  }
}
