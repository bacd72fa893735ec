package dev.kubevend;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNotSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class TokenSourceTest {
    private final ManualTimers timers = new ManualTimers();
    private final List<String> told = new ArrayList<>();
    private final List<String> renewed = new ArrayList<>();
    private ScriptedServer server;
    private Kubevend client;
    private TokenSource source;

    @BeforeEach
    void open() throws IOException {
        server = new ScriptedServer();
        client = server.client();
        source = new TokenSource(client, TokenRequest.ofRole("ci"), timers, new Listeners(Runnable::run, () -> {}));
        source.addListener(new TokenListener() {
            @Override
            public void onRenewed(Token token) {
                renewed.add(token.value());
            }

            @Override
            public void onRevoked(String lease, String message) {
                told.add("revoked " + lease);
            }

            @Override
            public void onRefused(KubevendException refusal) {
                told.add("refused " + refusal.reason());
            }
        });
    }

    @AfterEach
    void close() {
        source.close();
        client.close();
        server.close();
    }

    /** Has the source open its first stream, as who first asks does; nobody waits. */
    private void begin() {
        assertThrows(KubevendException.class, () -> source.token(Duration.ZERO));
        timers.pass(Duration.ZERO);
    }

    private String held() {
        return source.token(Duration.ZERO).value();
    }

    private void passUntilNext() {
        timers.pass(timers.untilNext());
    }

    @Test
    void oneStreamServesAll() {
        begin();
        server.token("first", "leases/1");

        assertEquals("first", held());
        assertEquals("first", held());
        assertEquals(1, server.streams.size());
        assertEquals("roles/ci", server.last().request().getRole());
    }

    @Test
    void theNextTokenTakesThePlaceOfTheOneBefore() {
        begin();
        server.token("first", "leases/1");
        server.token("second", "leases/2");

        assertEquals("second", held());
        assertEquals(List.of("first", "second"), renewed);
    }

    @Test
    void aTokenIsHandedOutUntilShortlyBeforeItsEnd() {
        begin();
        server.token("first", "leases/1");
        server.fail(Status.Code.UNAVAILABLE, "");

        timers.pass(Duration.ofSeconds(589));
        assertEquals("first", held());
        timers.pass(Duration.ofSeconds(2));
        assertThrows(KubevendException.class, this::held);
    }

    @Test
    void aStreamThatEndsIsOpenedAgainWithTheSameRequestId() {
        begin();
        server.token("first", "leases/1");
        server.fail(Status.Code.UNAVAILABLE, "SERVER_STOPPING");

        assertEquals("first", held());
        passUntilNext();
        assertEquals(2, server.streams.size());
        assertEquals(
                server.streams.get(0).request().getRequestId(),
                server.last().request().getRequestId());
        server.token("second", "leases/1");
        assertEquals("second", held());
    }

    @Test
    void itWaitsLongerEachTimeButNotForever() {
        begin();
        Duration longest = Duration.ZERO;
        for (int attempt = 0; attempt < 12; attempt++) {
            server.fail(Status.Code.UNAVAILABLE, "KUBERNETES_UNREACHABLE");
            longest = timers.untilNext().compareTo(longest) > 0 ? timers.untilNext() : longest;
            passUntilNext();
        }
        assertTrue(longest.compareTo(Duration.ofSeconds(30)) <= 0, longest.toString());
        assertEquals(13, server.streams.size());
    }

    @Test
    void aRefusalIsThrownAtOnceAndTriedAgainLater() {
        begin();
        server.fail(Status.Code.PERMISSION_DENIED, "ACCESS_DENIED");

        KubevendException refusal = assertThrows(KubevendException.class, () -> source.token(Duration.ofMinutes(5)));
        assertEquals("ACCESS_DENIED", refusal.reason());
        assertTrue(timers.untilNext().compareTo(Duration.ofSeconds(5)) >= 0);
        passUntilNext();
        server.token("first", "leases/1");
        assertEquals("first", held());
    }

    @Test
    void aRevokedTokenIsGivenUpAndAnotherLeaseAskedFor() {
        begin();
        server.token("first", "leases/1");
        server.revoke("leases/1");

        assertThrows(KubevendException.class, this::held);
        assertEquals(List.of("revoked leases/1"), told);
        passUntilNext();
        assertNotEquals(
                server.streams.get(0).request().getRequestId(),
                server.last().request().getRequestId());
        server.token("second", "leases/2");
        assertEquals("second", held());
    }

    @Test
    void aTokenThatSomebodySawRefusedIsGivenUpOnce() {
        begin();
        server.token("first", "leases/1");
        Token first = source.token(Duration.ZERO);

        source.invalidate(first);
        timers.pass(Duration.ZERO);
        assertTrue(server.streams.get(0).answers().isCancelled());
        server.token("second", "leases/2");
        source.invalidate(first);

        assertEquals("second", held());
        assertEquals(2, server.streams.size());
    }

    @Test
    void aStreamOnWhichNothingComesIsGivenUp() {
        begin();
        server.token("first", "leases/1");

        timers.pass(Duration.ofSeconds(509));
        assertEquals(1, server.streams.size());
        timers.pass(Duration.ofSeconds(2));
        assertEquals(2, server.streams.size());
        assertTrue(server.streams.get(0).answers().isCancelled());
        assertEquals("first", held());
    }

    @Test
    void anUnusableRequestIdIsReplaced() {
        begin();
        server.fail(Status.Code.FAILED_PRECONDITION, "REQUEST_ID_LEASE_ENDED");
        passUntilNext();

        assertNotEquals(
                server.streams.get(0).request().getRequestId(),
                server.last().request().getRequestId());
        assertEquals(List.of(), told);
    }

    @Test
    void aListenerThatFailsStopsNothing() {
        source.addListener(new TokenListener() {
            @Override
            public void onRevoked(String lease, String message) {
                throw new IllegalStateException("a fault of the listener's");
            }
        });
        begin();
        server.token("first", "leases/1");
        server.revoke("leases/1");
        passUntilNext();
        server.token("second", "leases/2");

        assertEquals("second", held());
    }

    @Test
    void aClosedSourceHandsOutNothing() {
        begin();
        server.token("first", "leases/1");

        source.close();

        KubevendException closed = assertThrows(KubevendException.class, this::held);
        assertEquals("SOURCE_CLOSED", closed.reason());
        assertTrue(server.last().answers().isCancelled());
        assertTrue(timers.isStopped());
        assertEquals(0, timers.waiting());
    }

    @Test
    void nothingShowsTheToken() {
        begin();
        server.token("secret-value", "leases/1");

        Token token = source.token(Duration.ZERO);
        assertFalse((token + " " + source + " " + told).contains("secret-value"));
    }

    @Test
    void whoStillHasATokenIsToldOnceThatThereWillBeNoOther() {
        begin();
        server.token("first", "leases/1");
        for (int attempt = 0; attempt < 3; attempt++) {
            server.fail(Status.Code.PERMISSION_DENIED, "ACCESS_DENIED");
            passUntilNext();
        }

        assertEquals(List.of("refused ACCESS_DENIED"), told);
        assertEquals("first", held());
    }

    @Test
    void anEndedCredentialOfTheStreamIsReplacedAtOnce() {
        begin();
        server.token("first", "leases/1");
        server.fail(Status.Code.UNAUTHENTICATED, "TOKEN_EXPIRED");

        assertEquals(Duration.ZERO, timers.untilNext());
        passUntilNext();
        server.fail(Status.Code.UNAUTHENTICATED, "TOKEN_EXPIRED");
        assertTrue(timers.untilNext().compareTo(Duration.ofSeconds(5)) >= 0);
    }

    @Test
    void aRequestIdThatIsRefusedAgainIsNotReplacedAtOnce() {
        begin();
        server.fail(Status.Code.FAILED_PRECONDITION, "REQUEST_ID_LEASE_ENDED");
        assertEquals(Duration.ZERO, timers.untilNext());
        passUntilNext();
        server.fail(Status.Code.FAILED_PRECONDITION, "REQUEST_ID_LEASE_ENDED");

        assertTrue(timers.untilNext().compareTo(Duration.ofSeconds(5)) >= 0);
    }

    @Test
    void theServerSaysWhenToComeBack() {
        begin();
        server.throttle(Duration.ofSeconds(90));

        timers.pass(Duration.ofSeconds(89));
        assertEquals(1, server.streams.size());
        timers.pass(Duration.ofSeconds(1));
        assertEquals(2, server.streams.size());
    }

    @Test
    void aTokenThatIsToComeLateIsWaitedFor() {
        begin();
        server.tokenBefore("first", "leases/1", Duration.ofSeconds(540));

        timers.pass(Duration.ofSeconds(569));
        assertEquals(1, server.streams.size());
        timers.pass(Duration.ofSeconds(2));
        assertEquals(2, server.streams.size());
    }

    @Test
    void aStreamThatSaysNothingFromTheStartIsGivenUp() {
        begin();
        timers.pass(Duration.ofSeconds(29));
        assertEquals(1, server.streams.size());
        timers.pass(Duration.ofSeconds(2));

        assertEquals(2, server.streams.size());
        KubevendException silent = assertThrows(KubevendException.class, this::held);
        assertEquals("STREAM_SILENT", silent.reason());
    }

    @Test
    void whatALeftStreamBringsIsNotListenedTo() {
        begin();
        server.token("first", "leases/1");
        ScriptedServer.Opened left = server.last();
        source.invalidate(source.token(Duration.ZERO));
        passUntilNext();
        server.token("second", "leases/2");

        assertTrue(left.answers().isCancelled());
        assertEquals("second", held());
    }

    @Test
    void tokensThatAreRefusedAgainAndAgainAreReplacedMoreSlowly() {
        begin();
        Duration longest = Duration.ZERO;
        for (int time = 0; time < 12; time++) {
            server.token("token " + time, "leases/" + time);
            source.invalidate(source.token(Duration.ZERO));
            assertTrue(time > 0 || timers.untilNext().isZero());
            longest = timers.untilNext().compareTo(longest) > 0 ? timers.untilNext() : longest;
            passUntilNext();
        }

        assertTrue(longest.compareTo(Duration.ZERO) > 0);
        assertTrue(longest.compareTo(Duration.ofSeconds(30)) <= 0);
    }

    @Test
    void aSourceMayBeClosedByItsListener() {
        source.addListener(new TokenListener() {
            @Override
            public void onRenewed(Token token) {
                source.close();
            }
        });
        begin();
        server.token("first", "leases/1");

        assertTrue(timers.isStopped());
        assertEquals(
                "SOURCE_CLOSED",
                assertThrows(KubevendException.class, this::held).reason());
    }

    @Test
    void anotherLeasesEndCostsNoToken() {
        begin();
        server.token("first", "leases/1");
        server.notice("LEASE_REVOKED", "leases/0");

        assertEquals("first", held());
        assertEquals(1, server.streams.size());
        assertEquals(List.of("revoked leases/0"), told);
    }

    @Test
    void aRevocationCountsWithoutItsNotice() {
        begin();
        server.token("first", "leases/1");
        server.fail(Status.Code.ABORTED, "LEASE_REVOKED");

        assertThrows(KubevendException.class, this::held);
        assertEquals(List.of("revoked leases/1"), told);
        passUntilNext();
        assertNotEquals(
                server.streams.get(0).request().getRequestId(),
                server.last().request().getRequestId());
    }

    @Test
    void aNoticeAloneChangesNothing() {
        begin();
        server.token("first", "leases/1");
        server.notice("ACCESS_DENIED", "leases/1");

        assertEquals("first", held());
        assertEquals(List.of(), told);
        server.fail(Status.Code.PERMISSION_DENIED, "ACCESS_DENIED");
        assertEquals("first", held());
        assertEquals(List.of("refused ACCESS_DENIED"), told);
    }

    @Test
    void aRequestThatIsInProgressKeepsItsId() {
        begin();
        server.fail(Status.Code.ABORTED, "REQUEST_ID_IN_PROGRESS");
        passUntilNext();

        assertEquals(
                server.streams.get(0).request().getRequestId(),
                server.last().request().getRequestId());
    }

    @Test
    void aServersWrongClockDoesNoHarm() {
        begin();
        server.tokenThatEnds("first", "leases/1", Instant.EPOCH.plusSeconds(600));

        timers.pass(Duration.ofSeconds(509));
        assertEquals("first", held());
        server.tokenThatEnds("second", "leases/2", Instant.parse("2100-01-01T00:00:00Z"));
        server.fail(Status.Code.UNAVAILABLE, "");
        timers.pass(Duration.ofSeconds(591));
        assertThrows(KubevendException.class, this::held);
    }

    @Test
    void aStreamThatEndsWithoutAWordIsOpenedAgain() {
        begin();
        server.last().answers().onCompleted();

        KubevendException ended = assertThrows(KubevendException.class, this::held);
        assertEquals("STREAM_ENDED", ended.reason());
        passUntilNext();
        server.token("first", "leases/1");
        assertEquals("first", held());
    }

    @Test
    void eachWhoWaitsIsToldByAnErrorOfItsOwn() {
        begin();
        server.fail(Status.Code.UNAVAILABLE, "KUBERNETES_UNREACHABLE");

        KubevendException one = assertThrows(KubevendException.class, this::held);
        KubevendException another = assertThrows(KubevendException.class, this::held);
        assertEquals("KUBERNETES_UNREACHABLE", one.reason());
        assertNotSame(one, another);
    }

    @Test
    void aClosedClientIsToldAtOnce() {
        client.close();
        begin();

        KubevendException closed = assertThrows(KubevendException.class, () -> source.token(Duration.ofMinutes(5)));
        assertEquals("CLIENT_CLOSED", closed.reason());
        assertTrue(closed.isLocal());
        assertTrue(closed.isPermanent());
    }

    @Test
    void whatBecomesOfARequestLaterDoesNotChangeItsSource() {
        TokenRequest request = TokenRequest.ofRole("ci").namespace("apps");
        TokenSource own = new TokenSource(client, request, timers, new Listeners(Runnable::run, () -> {}));
        request.namespace("elsewhere");
        assertThrows(KubevendException.class, () -> own.token(Duration.ZERO));
        timers.pass(Duration.ZERO);

        assertEquals("apps", server.last().request().getNamespace());
        own.close();
    }

    @Test
    void whoWaitsGetsTheTokenThatComes() throws Exception {
        begin();
        List<CompletableFuture<Token>> waiting = waiting(20);
        server.token("first", "leases/1");

        for (CompletableFuture<Token> each : waiting) {
            assertEquals("first", each.get(30, TimeUnit.SECONDS).value());
        }
        assertEquals(1, server.streams.size());
    }

    @Test
    void closingEndsWhoWaits() {
        begin();
        List<CompletableFuture<Token>> waiting = waiting(2);
        source.close();

        for (CompletableFuture<Token> each : waiting) {
            ExecutionException ended = assertThrows(ExecutionException.class, () -> each.get(30, TimeUnit.SECONDS));
            assertEquals("SOURCE_CLOSED", ((KubevendException) ended.getCause()).reason());
        }
    }

    @Test
    void whoIsInterruptedIsToldSo() {
        begin();
        Thread.currentThread().interrupt();
        KubevendException interrupted =
                assertThrows(KubevendException.class, () -> source.token(Duration.ofMinutes(5)));

        assertTrue(Thread.interrupted());
        assertEquals("INTERRUPTED", interrupted.reason());
    }

    /** So many threads that wait for a token, each as long as may be. */
    private List<CompletableFuture<Token>> waiting(int count) {
        List<CompletableFuture<Token>> all = new ArrayList<>();
        List<Thread> threads = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            CompletableFuture<Token> one = new CompletableFuture<>();
            all.add(one);
            threads.add(Timers.daemon("waits", () -> {
                try {
                    one.complete(source.token(Duration.ofSeconds(Long.MAX_VALUE)));
                } catch (KubevendException failure) {
                    one.completeExceptionally(failure);
                }
            }));
        }
        threads.forEach(Thread::start);
        while (!threads.stream().allMatch(each -> each.getState() == Thread.State.TIMED_WAITING)) {
            Thread.onSpinWait();
        }
        return all;
    }

    @Test
    void aListenersOwnThreadIsNotTheSources() throws Exception {
        TokenSource real = client.tokenSource(TokenRequest.ofRole("ci"));
        CountDownLatch held = new CountDownLatch(1);
        CountDownLatch told = new CountDownLatch(2);
        real.addListener(new TokenListener() {
            @Override
            public void onRenewed(Token token) {
                try {
                    held.await();
                } catch (InterruptedException interrupted) {
                    throw new IllegalStateException(interrupted);
                }
                told.countDown();
            }
        });
        assertThrows(KubevendException.class, () -> real.token(Duration.ZERO));
        awaitStream();
        server.token("first", "leases/1");
        server.token("second", "leases/2");

        assertEquals("second", real.token().value());
        real.close();
        held.countDown();
        assertTrue(told.await(30, TimeUnit.SECONDS));
        assertNothingIsLeft();
    }

    @Test
    void nothingOfARealSourceIsLeftBehind() throws InterruptedException {
        TokenSource real = client.tokenSource(TokenRequest.ofRole("ci"));
        assertThrows(KubevendException.class, () -> real.token(Duration.ZERO));
        awaitStream();
        assertFalse(threads().isEmpty());
        real.close();

        assertNothingIsLeft();
        real.close();
    }

    private void awaitStream() {
        while (server.streams.isEmpty()) {
            Thread.onSpinWait();
        }
    }

    private static List<Thread> threads() {
        return Thread.getAllStackTraces().keySet().stream()
                .filter(each -> each.getName().startsWith("kubevend-"))
                .toList();
    }

    private static void assertNothingIsLeft() throws InterruptedException {
        for (Thread thread : threads()) {
            thread.join(30_000);
            assertFalse(thread.isAlive(), thread.getName());
        }
    }
}
