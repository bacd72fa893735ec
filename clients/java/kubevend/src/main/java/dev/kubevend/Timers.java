package dev.kubevend;

import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** Time as a source needs it: one that never goes back, and something that is done later. */
interface Timers {
    /** Nanoseconds that never go back. */
    long now();

    /** Does something later; what it returns keeps it from being done. */
    Runnable later(long nanoseconds, Runnable task);

    /** Does nothing further. */
    void stop();

    /** One thread, which keeps no process alive. */
    static Timers ofDaemonThread() {
        ScheduledThreadPoolExecutor thread =
                new ScheduledThreadPoolExecutor(1, task -> daemon("kubevend-token-source", task));
        thread.setRemoveOnCancelPolicy(true);
        return new Timers() {
            @Override
            public long now() {
                return System.nanoTime();
            }

            @Override
            public Runnable later(long nanoseconds, Runnable task) {
                ScheduledFuture<?> planned = thread.schedule(task, nanoseconds, TimeUnit.NANOSECONDS);
                return () -> planned.cancel(false);
            }

            @Override
            public void stop() {
                thread.shutdownNow();
            }
        };
    }

    /** A thread that keeps no process alive. */
    static Thread daemon(String name, Runnable task) {
        Thread thread = Executors.defaultThreadFactory().newThread(task);
        thread.setName(name);
        thread.setDaemon(true);
        return thread;
    }
}
