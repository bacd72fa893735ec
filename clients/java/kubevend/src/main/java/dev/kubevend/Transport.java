package dev.kubevend;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Makes channels, each with what is in the files of the settings then. */
final class Transport implements Connection.Dialer {
    static final String USER_AGENT = "kubevend-java/0.1.0";

    private static final String CA = "KUBEVEND_CA_FILE (caFile)";
    private static final String PAIR = "The client certificate or its key (PEM, the key as PKCS #8)";
    private static final String CERTIFICATE =
            "KUBEVEND_CLIENT_CERT_FILE and KUBEVEND_CLIENT_KEY_FILE (clientCertificate)";

    // Of a call that has ended with DEADLINE_EXCEEDED nobody knows what became of it, so it is never made again. A
    // stream that is refused is told to its source, which makes its own pauses.
    private static final Map<String, Object> RETRY_POLICY = Map.of(
            "maxAttempts",
            4.0, // JSON's numbers
            "initialBackoff",
            "0.2s",
            "maxBackoff",
            "2s",
            "backoffMultiplier",
            2.0,
            "retryableStatusCodes",
            List.of("UNAVAILABLE"));
    private static final Map<String, Object> SERVICE_CONFIG = Map.of(
            "methodConfig",
            List.of(
                    Map.of("name", List.of(Map.of("service", "kubevend.v1.IssueService", "method", "StreamTokens"))),
                    Map.of("name", List.of(Map.of()), "retryPolicy", RETRY_POLICY)));

    private final ConnectionSettings settings;

    Transport(ConnectionSettings settings) {
        this.settings = settings;
    }

    /** Throws {@link KubevendException} where a file is of no use. */
    @Override
    public ManagedChannel dial() {
        ChannelCredentials credentials = settings.plaintext() ? InsecureChannelCredentials.create() : tls();
        try {
            return Grpc.newChannelBuilder(settings.address(), credentials)
                    .userAgent(USER_AGENT)
                    .disableServiceConfigLookUp()
                    .defaultServiceConfig(SERVICE_CONFIG)
                    .enableRetry()
                    .keepAliveTime(30, TimeUnit.SECONDS)
                    .keepAliveTimeout(10, TimeUnit.SECONDS)
                    .build();
        } catch (IllegalArgumentException unusable) {
            // A certificate that gRPC does not take, though it is one. The CA has been looked at.
            throw KubevendException.unreadable(PAIR, CERTIFICATE, unusable);
        }
    }

    private ChannelCredentials tls() {
        TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
        settings.caFile().ifPresent(file -> trust(tls, file));
        settings.clientCertFile()
                .ifPresent(file -> identify(tls, file, settings.clientKeyFile().orElseThrow()));
        return tls.build();
    }

    private static void trust(TlsChannelCredentials.Builder tls, Path file) {
        try {
            byte[] content = Files.readAllBytes(file);
            CertificateFactory pem = CertificateFactory.getInstance("X.509");
            if (pem.generateCertificates(new ByteArrayInputStream(content)).isEmpty()) {
                throw new IOException("there is no certificate in " + file);
            }
            tls.trustManager(new ByteArrayInputStream(content));
        } catch (IOException | CertificateException unusable) {
            throw KubevendException.unreadable("The CA file", CA, unusable);
        }
    }

    private static void identify(TlsChannelCredentials.Builder tls, Path certificate, Path key) {
        try {
            ClientIdentity identity = ClientIdentity.read(certificate, key);
            tls.keyManager(identity.certificates(), identity.key());
        } catch (IOException unusable) {
            throw KubevendException.unreadable(PAIR, CERTIFICATE, unusable);
        }
    }
}
