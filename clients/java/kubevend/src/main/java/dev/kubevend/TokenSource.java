package dev.kubevend;

import dev.kubevend.v1.IssueTokenRequest;
import dev.kubevend.v1.StreamTokensRequest;
import dev.kubevend.v1.StreamTokensResponse;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;

/**
 * Keeps one token that is good, for as long as it is open.
 *
 * <p>It holds a stream of tokens open, which all who ask share, and on which kubevend sends the next token in time. While kubevend
 * cannot be reached it hands out the token that it has, until shortly before that ends, and opens the stream again with growing
 * pauses. It asks for nothing before its first use. Safe for use by many threads.
 */
public final class TokenSource implements AutoCloseable {
    private final Kubevend kubevend;
    private final String role;
    private final Timers timers;
    private final Listeners listeners;

    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    // All of these only under the lock.
    private final Upkeep upkeep;
    private Stream stream;
    private Runnable planned = () -> {};
    private boolean begun;
    private boolean closed;

    TokenSource(Kubevend kubevend, TokenRequest request, Timers timers, Listeners listeners) {
        IssueTokenRequest message = request.toMessage(); // as it is now: who has it may change it
        this.kubevend = kubevend;
        this.role = message.getRole();
        this.timers = timers;
        this.listeners = listeners;
        this.upkeep = new Upkeep(
                message, timers::now, (low, high) -> ThreadLocalRandom.current().nextLong(low, high));
    }

    /**
     * The token that is good now. Waits up to {@link Kubevend#DEFAULT_TIMEOUT} where there is none yet.
     *
     * @return the token
     * @throws KubevendException none is to be had
     */
    public Token token() {
        return token(Kubevend.DEFAULT_TIMEOUT);
    }

    /**
     * The token that is good now: at once while one is held. Else it waits for one, and fails at once where kubevend refuses for
     * good.
     *
     * @param timeout how long to wait where there is none
     * @return the token
     * @throws KubevendException it was refused, or none came in time; the reason is SOURCE_CLOSED where the source was closed, and
     *     INTERRUPTED where the thread was
     */
    public Token token(Duration timeout) {
        lock.lock();
        try {
            long end = timers.now() + TimeUnit.NANOSECONDS.convert(timeout);
            begin();
            while (true) {
                if (closed) {
                    throw KubevendException.local(
                            Status.Code.CANCELLED,
                            "SOURCE_CLOSED",
                            "The source of tokens was closed: make another one, or close it later.",
                            null);
                }
                Optional<Token> current = upkeep.current();
                if (current.isPresent()) {
                    return current.get();
                }
                failAtOnceOr(end, timeout);
                changed.awaitNanos(end - timers.now());
            }
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw KubevendException.local(
                    Status.Code.CANCELLED,
                    "INTERRUPTED",
                    "The thread was interrupted while it waited for a token.",
                    interrupted);
        } finally {
            lock.unlock();
        }
    }

    /**
     * Gives a token up that somebody saw refused (401), if it is still the one that is handed out; another lease's takes its place.
     *
     * @param refused the token
     */
    public void invalidate(Token refused) {
        lock.lock();
        try {
            if (!closed && upkeep.invalidate(refused)) {
                settle();
            }
        } finally {
            lock.unlock();
        }
    }

    /**
     * Has somebody told what becomes of the tokens.
     *
     * @param listener who
     */
    public void addListener(TokenListener listener) {
        listeners.add(listener);
    }

    /** Ends it: the stream, and every wait. It may be called more than once, and by listeners. */
    @Override
    public void close() {
        lock.lock();
        try {
            closed = true;
            changed.signalAll();
            timers.stop();
            listeners.stop();
            abandon();
        } finally {
            lock.unlock();
        }
    }

    @Override
    public String toString() {
        return "TokenSource[" + role + "]";
    }

    private void begin() {
        if (!begun && !closed) {
            begun = true;
            settle();
        }
    }

    /** Under the lock. */
    private void failAtOnceOr(long end, Duration timeout) {
        boolean late = end - timers.now() <= 0;
        Optional<KubevendException> problem = upkeep.problem().filter(each -> late || each.isPermanent());
        if (problem.isPresent()) {
            throw problem.get().again();
        }
        if (late) {
            throw KubevendException.own(
                    Status.Code.DEADLINE_EXCEEDED,
                    "NO_TOKEN_IN_TIME",
                    "No token came within " + timeout + ", and nothing was heard of kubevend.");
        }
    }

    /** Does what upkeep has decided. Under the lock. */
    private void settle() {
        if (!upkeep.isOpen()) {
            abandon();
        }
        planned.run();
        planned = timers.later(upkeep.pause(), this::open);
        changed.signalAll();
    }

    /** Ends the stream that is open, if one is, and listens to it no longer. Under the lock. */
    private void abandon() {
        Stream old = stream;
        stream = null;
        if (old != null) {
            old.cancel();
        }
    }

    private void open() {
        Stream opened;
        StreamTokensRequest request;
        lock.lock();
        try {
            if (closed || upkeep.pause() > 0) { // planned anew while this had begun
                return;
            }
            abandon();
            opened = new Stream();
            stream = opened;
            request = upkeep.open();
            settle();
        } finally {
            lock.unlock();
        }
        // Not under the lock: what fails at once is told before this returns.
        kubevend.streaming().streamTokens(request, opened);
    }

    private void take(Stream from, Consumer<Upkeep> what, boolean ends) {
        lock.lock();
        try {
            if (stream != from || closed) {
                return;
            }
            if (ends) {
                stream = null;
            }
            what.accept(upkeep);
            settle();
        } finally {
            lock.unlock();
        }
    }

    private final class Stream implements ClientResponseObserver<StreamTokensRequest, StreamTokensResponse> {
        private ClientCallStreamObserver<StreamTokensRequest> call;
        private boolean cancelled;

        @Override
        public synchronized void beforeStart(ClientCallStreamObserver<StreamTokensRequest> requestStream) {
            call = requestStream;
            if (cancelled) {
                end();
            }
        }

        synchronized void cancel() {
            cancelled = true;
            if (call != null) {
                end();
            }
        }

        private void end() {
            call.cancel("The source has no more use for the stream.", null);
        }

        @Override
        public void onNext(StreamTokensResponse response) {
            take(this, decisions -> tell(decisions.heard(response)), false);
        }

        @Override
        public void onError(Throwable error) {
            take(this, decisions -> tell(decisions.ended(KubevendException.of(error))), true);
        }

        @Override
        public void onCompleted() {
            onError(KubevendException.own(
                    Status.Code.UNAVAILABLE, "STREAM_ENDED", "The stream of tokens has ended without a reason."));
        }

        private void tell(List<Consumer<TokenListener>> what) {
            what.forEach(listeners::tell);
        }
    }
}
