package dev.kubevend;

import dev.kubevend.v1.IssueTokenRequest;
import dev.kubevend.v1.StreamNotice;
import dev.kubevend.v1.StreamTokensRequest;
import dev.kubevend.v1.StreamTokensResponse;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;

/**
 * Keeps one token that is good, for as long as it is open.
 *
 * <p>It holds a stream of tokens open, which all who ask share. While kubevend cannot be reached it hands out the token that it
 * has, for as long as that lives, and tries again. Safe for use by many threads.
 */
public final class TokenSource implements AutoCloseable {
  private static final Logger LOG = System.getLogger(TokenSource.class.getName());
  private static final long LONGEST_MARGIN = Duration.ofSeconds(10).toNanos();
  private static final long SHORTEST_PAUSE = Duration.ofMillis(500).toNanos();
  private static final long SHORTEST_PAUSE_AFTER_REFUSAL = Duration.ofSeconds(5).toNanos();
  private static final long LONGEST_PAUSE = Duration.ofSeconds(30).toNanos();

  private final Kubevend kubevend;
  private final TokenRequest request;
  private final Timers timers;
  private final List<TokenListener> listeners = new CopyOnWriteArrayList<>();

  private final ReentrantLock lock = new ReentrantLock();
  private final Condition changed = lock.newCondition();
  // All of these only under the lock.
  private String requestId = UUID.randomUUID().toString();
  private Token current;
  private long validUntil;
  private KubevendException problem;
  private Stream stream;
  private Runnable planned = () -> {};
  private int failures;
  private boolean begun;
  private boolean closed;

  TokenSource(Kubevend kubevend, TokenRequest request, Timers timers) {
    this.kubevend = kubevend;
    this.request = request;
    this.timers = timers;
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
   * The token that is good now.
   *
   * @param timeout how long to wait where there is none
   * @return the token
   * @throws KubevendException it was refused, or none came in time; the code is CANCELLED where the source is closed or the thread
   *     was interrupted
   */
  public Token token(Duration timeout) {
    lock.lock();
    try {
      long end = timers.now() + timeout.toNanos();
      begin();
      while (true) {
        if (closed) {
          throw KubevendException.local(
              Status.Code.CANCELLED, "SOURCE_CLOSED", "The source of tokens was closed: make another one.", null);
        }
        if (holds()) {
          return current;
        }
        long left = end - timers.now();
        if (problem != null && (left <= 0 || !problem.isTemporary())) {
          throw problem;
        }
        if (left <= 0) {
          throw KubevendException.local(
              Status.Code.DEADLINE_EXCEEDED, "TIMED_OUT", "No token came within " + timeout + ".", null);
        }
        changed.awaitNanos(left);
      }
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw KubevendException.local(
          Status.Code.CANCELLED, "INTERRUPTED", "The thread was interrupted while it waited for a token.", interrupted);
    } finally {
      lock.unlock();
    }
  }

  /**
   * Gives a token up that somebody saw refused, if it is still the one that is handed out; another lease's takes its place.
   *
   * @param refused the token
   */
  public void invalidate(Token refused) {
    lock.lock();
    try {
      if (current != refused || closed) {
        return;
      }
      current = null;
      requestId = UUID.randomUUID().toString();
      failures = 0;
      reopen(0);
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

  /** Ends it. Who waits for a token is told so. */
  @Override
  public void close() {
    Stream open;
    lock.lock();
    try {
      closed = true;
      current = null;
      planned.run();
      open = stream;
      stream = null;
      changed.signalAll();
    } finally {
      lock.unlock();
    }
    timers.stop();
    if (open != null) {
      open.cancel();
    }
  }

  @Override
  public String toString() {
    return "TokenSource[" + request.toMessage().getRole() + "]";
  }

  private boolean holds() {
    return current != null && timers.now() - validUntil < 0;
  }

  private void begin() {
    if (!begun && !closed) {
      begun = true;
      reopen(0);
    }
  }

  /** Opens the stream anew after a while; until then there is none. Under the lock. */
  private void reopen(long pause) {
    Stream old = stream;
    stream = null;
    planned.run();
    planned = timers.later(pause, this::open);
    if (old != null) {
      old.cancel();
    }
  }

  private void open() {
    Stream opened;
    IssueTokenRequest issue;
    lock.lock();
    try {
      if (closed) {
        return;
      }
      opened = new Stream();
      stream = opened;
      issue = request.toMessage().toBuilder().setRequestId(requestId).build();
    } finally {
      lock.unlock();
    }
    kubevend.streaming().streamTokens(StreamTokensRequest.newBuilder().setIssue(issue).build(), opened);
  }

  private void take(Token token) {
    long life = token.grantedTtl().toNanos();
    lock.lock();
    try {
      current = token;
      validUntil = timers.now() + life - Math.min(LONGEST_MARGIN, life / 10);
      problem = null;
      failures = 0;
      planned.run();
      // A stream on which nothing comes any more, as behind a proxy that has forgotten it, does not end by itself.
      planned = timers.later(life / 100 * 85, this::giveUp);
      changed.signalAll();
    } finally {
      lock.unlock();
    }
  }

  private void giveUp() {
    lock.lock();
    try {
      if (!closed) {
        reopen(0);
      }
    } finally {
      lock.unlock();
    }
  }

  private void lose(StreamNotice notice) {
    lock.lock();
    try {
      current = null;
      requestId = UUID.randomUUID().toString();
    } finally {
      lock.unlock();
    }
    tell(listener -> listener.onRevoked(notice.getLease(), notice.getMessage()));
  }

  private void end(KubevendException error, StreamNotice notice) {
    if (error.reason().equals("LEASE_REVOKED") && notice == null) {
      String lease = error.metadata().getOrDefault("lease", "");
      lose(StreamNotice.newBuilder().setLease(lease).setMessage(error.getMessage()).build());
    }
    lock.lock();
    try {
      if (closed) {
        return;
      }
      problem = asksAnew(error) ? null : error;
      if (error.reason().startsWith("REQUEST_ID_")) {
        requestId = UUID.randomUUID().toString();
      }
      reopen(pause(error));
      changed.signalAll();
    } finally {
      lock.unlock();
    }
    if (!error.isTemporary() && !asksAnew(error)) {
      tell(listener -> listener.onRefused(error));
    }
  }

  /** Whether what has ended is one lease, and another may be had. */
  private static boolean asksAnew(KubevendException error) {
    return error.reason().equals("LEASE_REVOKED") || error.reason().startsWith("REQUEST_ID_");
  }

  /** For how long to wait before the next stream: longer each time, and never all at once. */
  private long pause(KubevendException error) {
    int earlier = failures++;
    ThreadLocalRandom random = ThreadLocalRandom.current();
    if (earlier == 0 && (asksAnew(error) || error.reason().equals("SERVER_STOPPING"))) {
      return random.nextLong(SHORTEST_PAUSE);
    }
    long least = error.isTemporary() || asksAnew(error) ? SHORTEST_PAUSE : SHORTEST_PAUSE_AFTER_REFUSAL;
    long most = Math.min(LONGEST_PAUSE, least << Math.min(earlier, 10));
    long asked = error.retryAfter().map(Duration::toNanos).orElse(0L);
    return Math.max(random.nextLong(most / 2, most + 1), asked);
  }

  private void tell(Consumer<TokenListener> what) {
    for (TokenListener listener : listeners) {
      try {
        what.accept(listener);
      } catch (RuntimeException fault) {
        LOG.log(Level.WARNING, "A listener of a kubevend token source has failed", fault);
      }
    }
  }

  private final class Stream implements ClientResponseObserver<StreamTokensRequest, StreamTokensResponse> {
    private ClientCallStreamObserver<StreamTokensRequest> call;
    private boolean cancelled;
    private StreamNotice notice;

    @Override
    public synchronized void beforeStart(ClientCallStreamObserver<StreamTokensRequest> requestStream) {
      call = requestStream;
      if (cancelled) {
        call.cancel("The source has no more use for the stream.", null);
      }
    }

    synchronized void cancel() {
      cancelled = true;
      if (call != null) {
        call.cancel("The source has no more use for the stream.", null);
      }
    }

    @Override
    public void onNext(StreamTokensResponse response) {
      if (!isCurrent()) {
        return;
      }
      if (response.hasToken()) {
        take(new Token(response.getToken()));
      } else if (response.hasNotice()) {
        notice = response.getNotice();
        if (notice.getReason().equals("LEASE_REVOKED")) {
          lose(notice);
        }
      }
    }

    @Override
    public void onError(Throwable error) {
      if (isCurrent()) {
        end(KubevendException.of(error), notice);
      }
    }

    @Override
    public void onCompleted() {
      onError(Status.UNAVAILABLE.withDescription("The stream of tokens has ended.").asRuntimeException());
    }

    private boolean isCurrent() {
      lock.lock();
      try {
        return stream == this && !closed;
      } finally {
        lock.unlock();
      }
    }
  }
}
