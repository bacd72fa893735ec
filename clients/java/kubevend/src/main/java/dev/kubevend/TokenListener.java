package dev.kubevend;

/**
 * Told what becomes of a source's tokens: one thing after another, on a thread that is there for that alone. A listener that throws
 * is logged, and does no other harm.
 */
public interface TokenListener {
    /**
     * A token came, the first or the next.
     *
     * @param token the token
     */
    default void onRenewed(Token token) {}

    /**
     * A lease was ended before its time. Its token was given up, and one of another lease asked for, which the policies may allow or
     * not.
     *
     * @param lease {@code leases/…}
     * @param message why, in words
     */
    default void onRevoked(String lease, String message) {}

    /**
     * No further token is allowed as things stand. The one that is there goes on being handed out until its end, and kubevend is asked
     * again now and then.
     *
     * @param refusal why
     */
    default void onRefused(KubevendException refusal) {}
}
