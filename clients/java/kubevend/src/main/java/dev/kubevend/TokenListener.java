package dev.kubevend;

/** Told what becomes of a source's tokens. Called on the source's own thread: do not keep it. */
public interface TokenListener {
  /**
   * The lease of the token was ended before its time, and the token given up.
   *
   * @param lease {@code leases/…}
   * @param message why, in words
   */
  default void onRevoked(String lease, String message) {}

  /**
   * No further token is allowed as things stand. The one that is there goes on being handed out until its end.
   *
   * @param refusal why
   */
  default void onRefused(KubevendException refusal) {}
}
