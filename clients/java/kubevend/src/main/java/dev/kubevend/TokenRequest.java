package dev.kubevend;

import dev.kubevend.v1.IssueTokenRequest;
import java.time.Duration;
import java.util.List;
import java.util.UUID;

/** What a token is to be. What is left out the role decides. */
public final class TokenRequest {
    private final IssueTokenRequest.Builder message = IssueTokenRequest.newBuilder();

    private TokenRequest(String role) {
        message.setRole(role.startsWith("roles/") ? role : "roles/" + role);
    }

    /**
     * A token through a role.
     *
     * @param role {@code quickstart} or {@code roles/quickstart}
     * @return the request
     */
    public static TokenRequest ofRole(String role) {
        return new TokenRequest(role);
    }

    /**
     * The ServiceAccount's namespace.
     *
     * @param namespace its name
     * @return this request
     */
    public TokenRequest namespace(String namespace) {
        message.setNamespace(namespace);
        return this;
    }

    /**
     * The ServiceAccount.
     *
     * @param name its name
     * @return this request
     */
    public TokenRequest serviceAccountName(String name) {
        message.setServiceAccountName(name);
        return this;
    }

    /**
     * How long the token should live. What is longer than may be is shortened, with a warning.
     *
     * @param ttl whole seconds
     * @return this request
     */
    public TokenRequest ttl(Duration ttl) {
        message.getTtlBuilder().setSeconds(ttl.toSeconds());
        return this;
    }

    /**
     * The shortest life that is of use: rather fail than get less.
     *
     * @param minTtl whole seconds
     * @return this request
     */
    public TokenRequest minTtl(Duration minTtl) {
        message.getMinTtlBuilder().setSeconds(minTtl.toSeconds());
        return this;
    }

    /**
     * The token's audiences.
     *
     * @param audiences the audiences
     * @return this request
     */
    public TokenRequest audiences(List<String> audiences) {
        message.clearAudiences().addAllAudiences(audiences);
        return this;
    }

    /**
     * An id by which the request can be made again without a second lease. One is made where none is given.
     *
     * @param requestId a UUID
     * @return this request
     */
    public TokenRequest requestId(String requestId) {
        message.setRequestId(requestId);
        return this;
    }

    /**
     * Only asks what would happen, and issues nothing.
     *
     * @return this request
     */
    public TokenRequest validateOnly() {
        message.setValidateOnly(true);
        return this;
    }

    /** As it goes on the wire, always with a request id. */
    IssueTokenRequest toMessage() {
        IssueTokenRequest.Builder whole = message.clone();
        if (whole.getRequestId().isEmpty()) {
            whole.setRequestId(UUID.randomUUID().toString());
        }
        return whole.build();
    }
}
