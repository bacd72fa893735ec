package dev.kubevend;

import java.time.Duration;
import java.util.function.LongBinaryOperator;

/** Pauses that grow, with chance in them, so that those who failed together do not come back together. In nanoseconds. */
final class Pauses {
    private static final long LONGEST = Duration.ofSeconds(30).toNanos();

    /** The bounds of the first pause; the upper one doubles each time. */
    enum Bounds {
        TEMPORARY(Duration.ZERO, Duration.ofMillis(500)),
        REFUSAL(Duration.ofSeconds(5), Duration.ofSeconds(10));

        private final long low;
        private final long high;

        Bounds(Duration low, Duration high) {
            this.low = low.toNanos();
            this.high = high.toNanos();
        }
    }

    private final int free;
    private final LongBinaryOperator spread;
    private int count;

    /** Of the pauses so many of the first are none; {@code spread} gives a number from its first argument on and below its second. */
    Pauses(int free, LongBinaryOperator spread) {
        this.free = free;
        this.spread = spread;
    }

    long next(Bounds first) {
        int doublings = count++ - free;
        if (doublings < 0) {
            return 0;
        }
        return spread.applyAsLong(first.low, Math.min(LONGEST, first.high << Math.min(doublings, 10)));
    }

    void reset() {
        count = 0;
    }
}
