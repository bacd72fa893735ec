package dev.kubevend;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** A call to kubevend that failed. Its message is for people and says what to do; {@link #reason()} is for programs. */
public final class KubevendException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /**
     * A field that breaks its rule.
     *
     * @param field its path
     * @param description what it must be
     */
    public record Violation(String field, String description) {}

    /** The status of gRPC. */
    private final Status.Code code;
    /** What happened, in UPPER_SNAKE. */
    private final String reason;

    private final transient Map<String, String> metadata;
    private final transient List<Violation> violations;
    /** When to try again; null where kubevend has not said it. */
    private final Duration retryAfter;
    /** Under which id kubevend's audit log has the call. */
    private final String requestId;
    /** Whether this library itself refuses. */
    private final boolean local;

    private KubevendException(Details details, Throwable cause) {
        super(details.message, cause);
        this.code = details.code;
        this.reason = details.reason;
        this.metadata = Map.copyOf(details.metadata);
        this.violations = List.copyOf(details.violations);
        this.retryAfter = details.retryAfter;
        this.requestId = details.requestId;
        this.local = details.local;
    }

    /** What this library itself refuses, with a reason of its own. */
    static KubevendException local(Status.Code code, String reason, String message, Throwable cause) {
        Details details = Details.of(code, reason, message);
        details.local = true;
        return new KubevendException(details, cause);
    }

    /** What a source says of kubevend, which has not said it itself. */
    static KubevendException own(Status.Code code, String reason, String message) {
        return new KubevendException(Details.of(code, reason, message), null);
    }

    /** What is to be said of a file that cannot be used. */
    static KubevendException unreadable(String what, String setting, Throwable cause) {
        String message = what + " cannot be used: " + cause + ". Correct " + setting
                + ", or see to it that the file is there and readable.";
        return local(Status.Code.FAILED_PRECONDITION, "FILE_UNREADABLE", message, cause);
    }

    /** The same, for another who is to hear it: with the trace of where that is. */
    KubevendException again() {
        Details details = Details.of(code, reason, getMessage());
        details.metadata = metadata;
        details.violations = violations;
        details.retryAfter = retryAfter;
        details.requestId = requestId;
        details.local = local;
        return new KubevendException(details, this);
    }

    /**
     * What a generated client has thrown, taken apart.
     *
     * @param error a {@link io.grpc.StatusRuntimeException}, or what has one for its cause
     * @return what it says
     */
    public static KubevendException of(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof KubevendException own) {
                return own;
            }
        }
        Status status = Status.fromThrowable(error);
        Details details = Details.of(status.getCode(), "", described(status));
        com.google.rpc.Status whole = StatusProto.fromThrowable(error);
        if (whole != null) {
            whole.getDetailsList().forEach(details::read);
        }
        return new KubevendException(details, error);
    }

    /** gRPC's own word for what failed below it is "io exception"; what it was is in the innermost cause. */
    private static String described(Status status) {
        String said = status.getDescription() == null ? status.getCode().name() : status.getDescription();
        Throwable innermost = status.getCause();
        while (innermost != null && innermost.getCause() != null) {
            innermost = innermost.getCause();
        }
        return innermost == null ? said : said.lines().findFirst().orElse("") + ": " + innermost.getMessage();
    }

    /**
     * The status of gRPC.
     *
     * @return the code
     */
    public Status.Code code() {
        return code;
    }

    /**
     * What happened, in UPPER_SNAKE: see kubevend's page on errors. Empty where kubevend has not said it, as when it could not be
     * reached.
     *
     * @return the reason
     */
    public String reason() {
        return reason;
    }

    /**
     * The facts in the message, by name.
     *
     * @return the facts
     */
    public Map<String, String> metadata() {
        return metadata;
    }

    /**
     * The fields at fault.
     *
     * @return the fields, empty where none is at fault
     */
    public List<Violation> violations() {
        return violations;
    }

    /**
     * When to try again, where kubevend has said it.
     *
     * @return the delay
     */
    public Optional<Duration> retryAfter() {
        return Optional.ofNullable(retryAfter);
    }

    /**
     * Under which id kubevend's audit log has the call. Empty where it did not get there.
     *
     * @return a UUID
     */
    public String requestId() {
        return requestId;
    }

    /**
     * Whether this library itself refuses, and kubevend has not been asked: FILE_UNREADABLE, CLIENT_CLOSED, SOURCE_CLOSED, INTERRUPTED.
     *
     * @return whether it does
     */
    public boolean isLocal() {
        return local;
    }

    /**
     * Whether another attempt alone would change nothing.
     *
     * @return whether it would not
     */
    public boolean isPermanent() {
        return switch (code) {
            case INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED, FAILED_PRECONDITION, UNIMPLEMENTED ->
                true;
            default -> local;
        };
    }

    private static final class Details {
        private Status.Code code;
        private String reason = "";
        private String message = "";
        private Map<String, String> metadata = Map.of();
        private List<Violation> violations = List.of();
        private Duration retryAfter;
        private String requestId = "";
        private boolean local;

        private static Details of(Status.Code code, String reason, String message) {
            Details details = new Details();
            details.code = code;
            details.reason = reason;
            details.message = message;
            return details;
        }

        private void read(Any detail) {
            try {
                if (detail.is(ErrorInfo.class)) {
                    ErrorInfo info = detail.unpack(ErrorInfo.class);
                    reason = info.getReason();
                    metadata = info.getMetadataMap();
                } else if (detail.is(BadRequest.class)) {
                    violations = detail.unpack(BadRequest.class).getFieldViolationsList().stream()
                            .map(each -> new Violation(each.getField(), each.getDescription()))
                            .toList();
                } else if (detail.is(RetryInfo.class)) {
                    com.google.protobuf.Duration delay =
                            detail.unpack(RetryInfo.class).getRetryDelay();
                    retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
                } else if (detail.is(RequestInfo.class)) {
                    requestId = detail.unpack(RequestInfo.class).getRequestId();
                }
            } catch (InvalidProtocolBufferException malformed) {
                // The code and the message are there all the same, and a detail that cannot be read tells nothing.
                message = message + " (with a detail that cannot be read: " + detail.getTypeUrl() + ")";
            }
        }
    }
}
