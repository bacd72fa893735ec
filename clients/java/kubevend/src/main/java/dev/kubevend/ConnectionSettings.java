package dev.kubevend;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * Where a kubevend server is, and what its caller shows.
 *
 * <p>A caller shows a token or a certificate, never both: the server refuses two identities on one call.
 */
public final class ConnectionSettings {
    private final String address;
    private final Path caFile;
    private final Path tokenFile;
    private final Path clientCertFile;
    private final Path clientKeyFile;
    private final boolean plaintext;

    private ConnectionSettings(Builder builder) {
        this.address = Objects.requireNonNull(builder.address, "address");
        this.caFile = builder.caFile;
        this.tokenFile = builder.tokenFile;
        this.clientCertFile = builder.clientCertFile;
        this.clientKeyFile = builder.clientKeyFile;
        this.plaintext = builder.plaintext;
        check();
    }

    /**
     * Begins settings for a server.
     *
     * @param address {@code host:port}
     * @return a builder
     */
    public static Builder of(String address) {
        return new Builder(address);
    }

    /**
     * Reads {@code KUBEVEND_ADDRESS}, {@code KUBEVEND_CA_FILE}, {@code KUBEVEND_TOKEN_FILE}, {@code KUBEVEND_CLIENT_CERT_FILE}
     * and {@code KUBEVEND_CLIENT_KEY_FILE}.
     *
     * @return the settings
     * @throws IllegalArgumentException {@code KUBEVEND_ADDRESS} is not set, or the others do not go together
     */
    public static ConnectionSettings fromEnvironment() {
        return fromEnvironment(System.getenv());
    }

    static ConnectionSettings fromEnvironment(Map<String, String> environment) {
        String address = environment.getOrDefault("KUBEVEND_ADDRESS", "");
        if (address.isEmpty()) {
            throw new IllegalArgumentException(
                    "KUBEVEND_ADDRESS is not set: set it to the host:port of a kubevend server.");
        }
        Builder builder = of(address);
        path(environment, "KUBEVEND_CA_FILE").ifPresent(builder::caFile);
        path(environment, "KUBEVEND_TOKEN_FILE").ifPresent(builder::tokenFile);
        builder.clientCertFile = path(environment, "KUBEVEND_CLIENT_CERT_FILE").orElse(null);
        builder.clientKeyFile = path(environment, "KUBEVEND_CLIENT_KEY_FILE").orElse(null);
        return builder.build();
    }

    private static Optional<Path> path(Map<String, String> environment, String name) {
        return Optional.ofNullable(environment.get(name))
                .filter(value -> !value.isEmpty())
                .map(Path::of);
    }

    private void check() {
        if ((clientCertFile == null) != (clientKeyFile == null)) {
            throw new IllegalArgumentException(
                    "A client certificate needs both of its files (KUBEVEND_CLIENT_CERT_FILE and KUBEVEND_CLIENT_KEY_FILE).");
        }
        if (clientCertFile != null && tokenFile != null) {
            throw new IllegalArgumentException(
                    "Both a client certificate and a token file are given; the server refuses two identities. Take one away.");
        }
        if (plaintext && !address.matches("(localhost|127\\.[0-9.]+|\\[::1]):[0-9]+")) {
            throw new IllegalArgumentException(
                    "Plain text is for loopback addresses alone, and " + address + " is none.");
        }
    }

    String address() {
        return address;
    }

    Optional<Path> caFile() {
        return Optional.ofNullable(caFile);
    }

    Optional<Path> tokenFile() {
        return Optional.ofNullable(tokenFile);
    }

    Optional<Path> clientCertFile() {
        return Optional.ofNullable(clientCertFile);
    }

    Optional<Path> clientKeyFile() {
        return Optional.ofNullable(clientKeyFile);
    }

    /** What TLS needs, as far as it is in files. */
    List<Path> tlsFiles() {
        return Stream.of(caFile, clientCertFile, clientKeyFile)
                .filter(Objects::nonNull)
                .toList();
    }

    boolean plaintext() {
        return plaintext;
    }

    /** Builds {@link ConnectionSettings}. */
    public static final class Builder {
        private final String address;
        private Path caFile;
        private Path tokenFile;
        private Path clientCertFile;
        private Path clientKeyFile;
        private boolean plaintext;

        private Builder(String address) {
            this.address = address;
        }

        /**
         * The authorities that may vouch for the server, PEM. Default: the system's. Looked at before each call.
         *
         * @param file where they are
         * @return this builder
         */
        public Builder caFile(Path file) {
            this.caFile = file;
            return this;
        }

        /**
         * A file with the caller's token, such as a projected ServiceAccount token. Looked at before each call.
         *
         * @param file where it is
         * @return this builder
         */
        public Builder tokenFile(Path file) {
            this.tokenFile = file;
            return this;
        }

        /**
         * The caller's certificate and its key, PEM, the key as PKCS #8. Looked at before each call.
         *
         * @param certificate the file with the certificate and what vouches for it
         * @param key the file with the key
         * @return this builder
         */
        public Builder clientCertificate(Path certificate, Path key) {
            this.clientCertFile = certificate;
            this.clientKeyFile = key;
            return this;
        }

        /**
         * No TLS. For a server on a loopback address alone.
         *
         * @return this builder
         */
        public Builder plaintext() {
            this.plaintext = true;
            return this;
        }

        /**
         * Makes the settings.
         *
         * @return the settings
         * @throws IllegalArgumentException what was given does not go together
         */
        public ConnectionSettings build() {
            return new ConnectionSettings(this);
        }
    }
}
