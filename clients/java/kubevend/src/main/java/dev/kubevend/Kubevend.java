package dev.kubevend;

import dev.kubevend.v1.ConfigServiceGrpc;
import dev.kubevend.v1.IdentityServiceGrpc;
import dev.kubevend.v1.IssueServiceGrpc;
import dev.kubevend.v1.LeaseServiceGrpc;
import dev.kubevend.v1.RoleServiceGrpc;
import dev.kubevend.v1.WhoAmIRequest;
import dev.kubevend.v1.WhoAmIResponse;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.AbstractStub;
import java.time.Duration;
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

    private final Connection connection;

    private Kubevend(Connection connection) {
        this.connection = connection;
    }

    /**
     * Prepares a connection; it is opened with the first call. The files that the settings name may be replaced at any time: they are
     * looked at before each call.
     *
     * @param settings where to, and as whom
     * @return the connection
     * @throws KubevendException a file that the settings name cannot be used (FILE_UNREADABLE)
     */
    public static Kubevend connect(ConnectionSettings settings) {
        return connect(settings, new Transport(settings));
    }

    static Kubevend connect(ConnectionSettings settings, Connection.Dialer dialer) {
        return new Kubevend(new Connection(settings, dialer));
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
            return IdentityServiceGrpc.newBlockingStub(connection).whoAmI(WhoAmIRequest.getDefaultInstance());
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
        return new TokenSource(this, request, Timers.ofDaemonThread(), Listeners.ofOwnThread());
    }

    /**
     * The generated client, for tokens.
     *
     * @return a stub, whose calls end after {@link #DEFAULT_TIMEOUT} unless it has another deadline; {@link KubevendException#of} takes
     *     apart what they throw
     */
    public IssueServiceGrpc.IssueServiceBlockingStub issueService() {
        return IssueServiceGrpc.newBlockingStub(connection);
    }

    /**
     * The generated client, for leases.
     *
     * @return a stub, whose calls end after {@link #DEFAULT_TIMEOUT} unless it has another deadline; {@link KubevendException#of} takes
     *     apart what they throw
     */
    public LeaseServiceGrpc.LeaseServiceBlockingStub leaseService() {
        return LeaseServiceGrpc.newBlockingStub(connection);
    }

    /**
     * The generated client, for roles.
     *
     * @return a stub, whose calls end after {@link #DEFAULT_TIMEOUT} unless it has another deadline; {@link KubevendException#of} takes
     *     apart what they throw
     */
    public RoleServiceGrpc.RoleServiceBlockingStub roleService() {
        return RoleServiceGrpc.newBlockingStub(connection);
    }

    /**
     * The generated client, for configs.
     *
     * @return a stub, whose calls end after {@link #DEFAULT_TIMEOUT} unless it has another deadline; {@link KubevendException#of} takes
     *     apart what they throw
     */
    public ConfigServiceGrpc.ConfigServiceBlockingStub configService() {
        return ConfigServiceGrpc.newBlockingStub(connection);
    }

    Connection connection() {
        return connection;
    }

    IssueServiceGrpc.IssueServiceStub streaming() {
        return IssueServiceGrpc.newStub(connection);
    }

    /** Ends what is under way, and the connection. Sources are not closed by it: close them first. */
    @Override
    public void close() {
        connection.close();
    }

    private static <S extends AbstractStub<S>> S within(S stub, Duration timeout) {
        return stub.withDeadlineAfter(TimeUnit.NANOSECONDS.convert(timeout), TimeUnit.NANOSECONDS);
    }
}
