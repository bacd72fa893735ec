package dev.kubevend;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class PausesTest {
    private static List<Long> milliseconds(Pauses pauses, Pauses.Bounds first) {
        return IntStream.range(0, 9)
                .mapToObj(each -> Duration.ofNanos(pauses.next(first)).toMillis())
                .toList();
    }

    @Test
    void theyDoubleUpToHalfAMinute() {
        assertEquals(
                List.of(500L, 1_000L, 2_000L, 4_000L, 8_000L, 16_000L, 30_000L, 30_000L, 30_000L),
                milliseconds(new Pauses(0, (low, high) -> high), Pauses.Bounds.TEMPORARY));
    }

    @Test
    void afterARefusalTheyAreFiveSecondsAtLeast() {
        assertEquals(
                List.of(5_000L, 5_000L, 5_000L, 5_000L, 5_000L, 5_000L, 5_000L, 5_000L, 5_000L),
                milliseconds(new Pauses(0, (low, high) -> low), Pauses.Bounds.REFUSAL));
    }

    @Test
    void theFirstMayBeNone() {
        Pauses pauses = new Pauses(1, (low, high) -> high);

        assertEquals(0, pauses.next(Pauses.Bounds.TEMPORARY));
        assertEquals(Duration.ofMillis(500).toNanos(), pauses.next(Pauses.Bounds.TEMPORARY));
        pauses.reset();
        assertEquals(0, pauses.next(Pauses.Bounds.TEMPORARY));
    }
}
