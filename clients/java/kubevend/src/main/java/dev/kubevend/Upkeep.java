package dev.kubevend;

import dev.kubevend.v1.IssueTokenRequest;
import dev.kubevend.v1.IssueTokenResponse;
import dev.kubevend.v1.StreamTokensRequest;
import dev.kubevend.v1.StreamTokensResponse;
import io.grpc.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.function.Consumer;
import java.util.function.LongBinaryOperator;
import java.util.function.LongSupplier;

/**
 * How one token is kept good: every decision, and no I/O. To be used by one thread at a time.
 *
 * <p>Times are nanoseconds of a clock that nobody sets, so that a time of day that is wrong, here or at the server, does no harm.
 */
final class Upkeep {
    /** So long before its end a token is no longer handed out, and for a tenth of its life at most. */
    private static final long MARGIN = Duration.ofSeconds(10).toNanos();

    /** How long a stream that was just opened may be silent. */
    private static final long FIRST_ANSWER = Duration.ofSeconds(30).toNanos();

    /** A token that is given up so soon after it came makes its successor wait, the longer the more often that happens. */
    private static final long SOON = Duration.ofMinutes(1).toNanos();

    private final IssueTokenRequest request;
    private final LongSupplier clock;
    private final Pauses failures;
    private final Pauses drops;
    private String requestId;
    private long due;

    private Token held;
    private long since;
    private long until;

    private KubevendException problem;
    private boolean open;
    private boolean answered; // the stream that is open, or was last, has brought a token
    private boolean idRefused; // the request id, of late
    private boolean told; // listeners, since the last token, that there will be no other

    Upkeep(IssueTokenRequest request, LongSupplier clock, LongBinaryOperator spread) {
        this.request = request;
        this.clock = clock;
        this.failures = new Pauses(0, spread);
        this.drops = new Pauses(1, spread);
        this.requestId = request.getRequestId();
        this.due = clock.getAsLong();
    }

    /** In how long to open a stream. One that is open then is to be ended first, and not listened to. */
    long pause() {
        return Math.max(0, due - clock.getAsLong());
    }

    /** Whether what a stream brings is listened to. */
    boolean isOpen() {
        return open;
    }

    /** The token, if one is held that is good. */
    Optional<Token> current() {
        return Optional.ofNullable(held).filter(token -> until - clock.getAsLong() > 0);
    }

    /** What went wrong since the last token, if anything did. */
    Optional<KubevendException> problem() {
        return Optional.ofNullable(problem);
    }

    /** Begins a stream, and tells with what. */
    StreamTokensRequest open() {
        if (open && problem == null) {
            problem = KubevendException.own(
                    Status.Code.UNAVAILABLE,
                    "STREAM_SILENT",
                    "The stream of tokens brought nothing in time, and was opened anew.");
        }
        open = true;
        answered = false;
        due = clock.getAsLong() + FIRST_ANSWER;
        return StreamTokensRequest.newBuilder()
                .setIssue(request.toBuilder().setRequestId(requestId))
                .build();
    }

    /** Takes what the stream brought, and tells what listeners are to hear. */
    List<Consumer<TokenListener>> heard(StreamTokensResponse answer) {
        if (!open) {
            return List.of();
        }
        if (answer.hasToken()) {
            return renewed(answer);
        }
        // Of any other notice the end of the stream says the same, and more.
        boolean revoked = answer.getNotice().getReason().equals("LEASE_REVOKED");
        return revoked
                ? revoked(answer.getNotice().getLease(), answer.getNotice().getMessage())
                : List.of();
    }

    /** Takes the end of the stream, and tells what listeners are to hear. */
    List<Consumer<TokenListener>> ended(KubevendException end) {
        if (!open) {
            return List.of();
        }
        open = false;
        if (end.reason().equals("LEASE_REVOKED") && held != null) { // and its notice did not arrive
            return revoked(held.lease(), end.getMessage());
        }
        boolean passing = isPassing(end);
        problem = passing ? null : end;
        due = clock.getAsLong() + (passing ? 0 : pauseAfter(end));
        if (passing || told || !end.isPermanent() || current().isEmpty()) {
            return List.of();
        }
        told = true;
        return List.of(listener -> listener.onRefused(end));
    }

    /** Takes it that somebody was refused with a token: if it is the current one it is given up. */
    boolean invalidate(Token refused) {
        boolean current = held != null && held.value().equals(refused.value());
        if (current) {
            drop();
        }
        return current;
    }

    private List<Consumer<TokenListener>> renewed(StreamTokensResponse answer) {
        Token token = new Token(answer.getToken());
        long life = token.grantedTtl().toNanos();
        held = token;
        since = clock.getAsLong();
        until = since + life - Math.min(MARGIN, life / 10);
        due = since + Math.max(life / 100 * 85, lifeBeforeNext(answer));
        problem = null;
        answered = true;
        idRefused = false;
        told = false;
        failures.reset();
        return List.of(listener -> listener.onRenewed(token));
    }

    /**
     * When in a token's life its successor is overdue, where the server means to send it late: after half of what is left by
     * then. All three times are the server's.
     */
    private static long lifeBeforeNext(StreamTokensResponse answer) {
        if (!answer.hasNextTokenTime()) {
            return 0;
        }
        IssueTokenResponse issued = answer.getToken();
        Instant next = Instant.ofEpochSecond(
                answer.getNextTokenTime().getSeconds(),
                answer.getNextTokenTime().getNanos());
        Token token = new Token(issued);
        long left = Duration.between(next, token.expiration()).toNanos();
        return token.grantedTtl().toNanos() - Math.max(0, left) / 2;
    }

    private List<Consumer<TokenListener>> revoked(String lease, String message) {
        if (held != null && held.lease().equals(lease)) {
            drop();
        }
        return List.of(listener -> listener.onRevoked(lease, message));
    }

    /** Holds nothing, and asks for a token of another lease: at once, unless that happens again and again. */
    private void drop() {
        long now = clock.getAsLong();
        if (now - since > SOON) {
            drops.reset();
        }
        held = null;
        problem = null;
        open = false;
        requestId = UUID.randomUUID().toString();
        due = now + drops.next(Pauses.Bounds.TEMPORARY);
    }

    private long pauseAfter(KubevendException end) {
        long grown = failures.next(end.isPermanent() ? Pauses.Bounds.REFUSAL : Pauses.Bounds.TEMPORARY);
        return Math.max(grown, end.retryAfter().map(Duration::toNanos).orElse(0L));
    }

    /** Whether what ended the stream is put right by opening it again at once. */
    private boolean isPassing(KubevendException end) {
        if (refusesRequestId(end)) {
            boolean again = idRefused;
            idRefused = true;
            requestId = UUID.randomUUID().toString();
            return !again;
        }
        // Another server takes over; or the stream's own credential has ended, and the next one is in the file already.
        return answered && (end.reason().equals("SERVER_STOPPING") || end.code() == Status.Code.UNAUTHENTICATED);
    }

    private static boolean refusesRequestId(KubevendException end) {
        return switch (end.code()) {
            case ALREADY_EXISTS, FAILED_PRECONDITION, INVALID_ARGUMENT ->
                end.reason().startsWith("REQUEST_ID_");
            default -> false;
        };
    }
}
