package dev.kubevend;

import dev.kubevend.v1.IssueTokenResponse;
import dev.kubevend.v1.Warning;
import java.time.Duration;
import java.time.Instant;
import java.util.List;

/** A token and what kubevend says of it. Nothing but {@link #value()} shows the token itself. */
public final class Token {
    private final IssueTokenResponse response;

    Token(IssueTokenResponse response) {
        this.response = response;
    }

    /**
     * The token itself, for an {@code Authorization: Bearer} header. Empty where it was only validated.
     *
     * @return the token
     */
    public String value() {
        return response.getToken();
    }

    /**
     * The end of the lease: until when kubevend answers for the token.
     *
     * @return the moment, by the server's clock
     */
    public Instant expiration() {
        return Instant.ofEpochSecond(
                response.getExpiration().getSeconds(), response.getExpiration().getNanos());
    }

    /**
     * The latest moment at which the cluster still accepts the token.
     *
     * @return the moment, by the server's clock
     */
    public Instant tokenExpiration() {
        return Instant.ofEpochSecond(
                response.getTokenExpiration().getSeconds(),
                response.getTokenExpiration().getNanos());
    }

    /**
     * How long it lives from its issuing, after every cap.
     *
     * @return so long
     */
    public Duration grantedTtl() {
        return Duration.ofSeconds(
                response.getGrantedTtl().getSeconds(), response.getGrantedTtl().getNanos());
    }

    /**
     * The ServiceAccount's namespace.
     *
     * @return its name
     */
    public String namespace() {
        return response.getNamespace();
    }

    /**
     * The ServiceAccount.
     *
     * @return its name
     */
    public String serviceAccount() {
        return response.getServiceAccount();
    }

    /**
     * The audiences.
     *
     * @return the audiences
     */
    public List<String> audiences() {
        return response.getAudiencesList();
    }

    /**
     * The lease, {@code leases/…}.
     *
     * @return its name
     */
    public String lease() {
        return response.getLease();
    }

    /**
     * The token's id, by which Kubernetes' audit log knows it.
     *
     * @return the jti
     */
    public String jti() {
        return response.getJti();
    }

    /**
     * Whether it is another token of a lease that an earlier call with the same request id got.
     *
     * @return whether it is
     */
    public boolean replayed() {
        return response.getReplayed();
    }

    /**
     * What came out otherwise than it was asked, and because of whom.
     *
     * @return the warnings
     */
    public List<Warning> warnings() {
        return response.getWarningsList();
    }

    @Override
    public String toString() {
        return "Token[" + namespace() + "/" + serviceAccount() + ", " + lease() + ", until " + expiration() + "]";
    }
}
