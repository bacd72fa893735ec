package dev.kubevend;

import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** Tells listeners what becomes of a source's tokens, one thing after another. */
final class Listeners {
    private static final Logger LOG = System.getLogger(TokenSource.class.getName());

    private final List<TokenListener> all = new CopyOnWriteArrayList<>();
    private final Executor executor;
    private final Runnable stop;

    Listeners(Executor executor, Runnable stop) {
        this.executor = executor;
        this.stop = stop;
    }

    /** On a thread of their own, so that a slow one keeps no token waiting. It ends where there is nothing to tell. */
    static Listeners ofOwnThread() {
        ExecutorService thread = new ThreadPoolExecutor(
                0,
                1,
                1,
                TimeUnit.SECONDS,
                new LinkedBlockingQueue<>(),
                task -> Timers.daemon("kubevend-listeners", task));
        return new Listeners(thread, thread::shutdown);
    }

    void add(TokenListener listener) {
        all.add(listener);
    }

    void tell(Consumer<TokenListener> what) {
        if (!all.isEmpty()) {
            executor.execute(() -> all.forEach(listener -> guarded(listener, what)));
        }
    }

    /** Tells what is to be told still, and then nothing more. */
    void stop() {
        stop.run();
    }

    private static void guarded(TokenListener listener, Consumer<TokenListener> what) {
        try {
            what.accept(listener);
        } catch (RuntimeException fault) {
            LOG.log(Level.WARNING, "A listener of a kubevend token source has failed", fault);
        }
    }
}
