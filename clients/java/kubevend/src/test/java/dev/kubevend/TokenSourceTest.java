package dev.kubevend;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
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
        source = new TokenSource(client, TokenRequest.ofRole("ci"), timers, new Listeners(Runnable::run));
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
    void nothingOfARealSourceIsLeftBehind() throws InterruptedException {
        TokenSource real = client.tokenSource(TokenRequest.ofRole("ci"));
        real.addListener(new TokenListener() {});
        assertThrows(KubevendException.class, () -> real.token(Duration.ZERO));
        real.close();

        for (Thread thread : Thread.getAllStackTraces().keySet()) {
            if (thread.getName().startsWith("kubevend-token-source")) {
                thread.join(10_000);
                assertFalse(thread.isAlive(), thread.getName());
            }
        }
    }
}
