package dev.kubevend;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/** Time that passes when a test says so. What is due is done on the thread of the test. */
final class ManualTimers implements Timers {
    private record Planned(long due, Runnable task) {}

    private final List<Planned> planned = new ArrayList<>();
    private long now;
    private boolean stopped;

    @Override
    public synchronized long now() {
        return now;
    }

    @Override
    public synchronized Runnable later(long nanoseconds, Runnable task) {
        Planned one = new Planned(now + nanoseconds, task);
        planned.add(one);
        return () -> {
            synchronized (this) {
                planned.remove(one);
            }
        };
    }

    @Override
    public synchronized void stop() {
        stopped = true;
        planned.clear();
    }

    synchronized boolean isStopped() {
        return stopped;
    }

    synchronized int waiting() {
        return planned.size();
    }

    /** How long it is until the next thing is done. */
    synchronized Duration untilNext() {
        return planned.stream()
                .map(each -> Duration.ofNanos(each.due() - now))
                .min(Comparator.naturalOrder())
                .orElseThrow(() -> new AssertionError("nothing is planned"));
    }

    /** Lets time pass, and does all that is due meanwhile, in its order. */
    void pass(Duration duration) {
        long end = now() + duration.toNanos();
        for (Planned next = nextUntil(end); next != null; next = nextUntil(end)) {
            next.task().run();
        }
        synchronized (this) {
            now = end;
        }
    }

    private synchronized Planned nextUntil(long end) {
        Planned next = planned.stream()
                .filter(each -> each.due() <= end)
                .min(Comparator.comparing(Planned::due))
                .orElse(null);
        if (next != null) {
            planned.remove(next);
            now = Math.max(now, next.due());
        }
        return next;
    }
}
