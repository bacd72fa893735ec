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
  private ScriptedServer server;
  private TokenSource source;

  @BeforeEach
  void open() throws IOException {
    server = new ScriptedServer();
    source = new TokenSource(new Kubevend(server.channel()), TokenRequest.ofRole("ci"), timers);
    source.addListener(
        new TokenListener() {
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
    assertEquals(server.streams.get(0).request().getRequestId(), server.last().request().getRequestId());
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
    assertTrue(longest.compareTo(Duration.ofSeconds(15)) >= 0, longest.toString());
    assertTrue(longest.compareTo(Duration.ofSeconds(30)) <= 0, longest.toString());
    assertEquals(13, server.streams.size());
  }

  @Test
  void aRefusalIsToldAtOnceAndTriedAgainLater() {
    begin();
    server.fail(Status.Code.PERMISSION_DENIED, "ACCESS_DENIED");

    KubevendException refusal = assertThrows(KubevendException.class, () -> source.token(Duration.ofMinutes(5)));
    assertEquals("ACCESS_DENIED", refusal.reason());
    assertEquals(List.of("refused ACCESS_DENIED"), told);
    assertTrue(timers.untilNext().compareTo(Duration.ofMillis(2500)) >= 0);
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
    assertNotEquals(server.streams.get(0).request().getRequestId(), server.last().request().getRequestId());
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

    assertNotEquals(server.streams.get(0).request().getRequestId(), server.last().request().getRequestId());
    assertEquals(List.of(), told);
  }

  @Test
  void aListenerThatFailsStopsNothing() {
    source.addListener(
        new TokenListener() {
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
}
