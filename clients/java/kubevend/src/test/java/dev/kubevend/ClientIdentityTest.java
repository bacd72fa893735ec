package dev.kubevend;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.ManagedChannel;
import io.grpc.inprocess.InProcessChannelBuilder;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ClientIdentityTest {
    private record Pair(byte[] certificate, byte[] key) {}

    private static Pair rsa;
    private static Pair one;
    private static Pair another;

    @TempDir
    private Path folder;

    private Path certificate;
    private Path key;

    @BeforeEach
    void name() {
        certificate = folder.resolve("tls.crt");
        key = folder.resolve("tls.key");
    }

    /** The JDK's own tool makes them, which takes a second for each. */
    @BeforeAll
    static void make(@TempDir Path stores) throws Exception {
        rsa = make("RSA", stores.resolve("rsa"));
        one = make("EC", stores.resolve("one"));
        another = make("EC", stores.resolve("another"));
    }

    private static Pair make(String algorithm, Path store) throws Exception {
        String tool = Path.of(System.getProperty("java.home"), "bin", "keytool").toString();
        Process made = new ProcessBuilder(
                        tool,
                        "-genkeypair",
                        "-keyalg",
                        algorithm,
                        "-dname",
                        "CN=caller",
                        "-alias",
                        "it",
                        "-storepass",
                        "secret",
                        "-keystore",
                        store.toString())
                .redirectErrorStream(true)
                .start();
        String said = new String(made.getInputStream().readAllBytes());
        assertEquals(0, made.waitFor(), said);
        KeyStore read = KeyStore.getInstance("PKCS12");
        try (InputStream stream = Files.newInputStream(store)) {
            read.load(stream, "secret".toCharArray());
        }
        return new Pair(
                read.getCertificate("it").getEncoded(),
                read.getKey("it", "secret".toCharArray()).getEncoded());
    }

    private static void write(Path file, String kind, byte[] der) throws IOException {
        String base64 = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(der);
        Files.writeString(file, "-----BEGIN %s-----\n%s\n-----END %s-----\n".formatted(kind, base64, kind));
    }

    private void write(Pair pair) throws IOException {
        write(certificate, "CERTIFICATE", pair.certificate());
        write(key, "PRIVATE KEY", pair.key());
    }

    private ConnectionSettings settings() {
        return ConnectionSettings.of("localhost:1")
                .clientCertificate(certificate, key)
                .build();
    }

    @Test
    void aCertificateAndItsKeyAreTaken() throws IOException {
        for (Pair pair : List.of(rsa, one)) {
            write(pair);

            Kubevend.connect(settings()).close();
        }
    }

    @Test
    void aKeyOfAnotherCertificateIsNamed() throws IOException {
        write(one);
        write(key, "PRIVATE KEY", another.key());

        KubevendException mismatch = assertThrows(KubevendException.class, () -> Kubevend.connect(settings()));
        assertEquals("FILE_UNREADABLE", mismatch.reason());
        assertTrue(mismatch.getMessage().contains(key.toString()), mismatch.getMessage());
        assertTrue(mismatch.getMessage().contains("KUBEVEND_CLIENT_KEY_FILE"), mismatch.getMessage());
    }

    @Test
    void aKeyOfAnotherFormIsNamed() throws IOException {
        write(rsa);
        write(key, "RSA PRIVATE KEY", rsa.key());

        KubevendException form = assertThrows(KubevendException.class, () -> Kubevend.connect(settings()));
        assertTrue(form.getMessage().contains("-----BEGIN PRIVATE KEY-----"), form.getMessage());
        assertFalse(form.getMessage()
                .contains(Base64.getEncoder().encodeToString(rsa.key()).substring(0, 20)));
    }

    @Test
    void aPairThatIsHalfReplacedWaitsForItsOtherHalf() throws IOException {
        write(one);
        List<ManagedChannel> dialled = new ArrayList<>();
        Transport transport = new Transport(settings());
        try (Kubevend client = Kubevend.connect(settings(), () -> {
            transport.dial().shutdownNow();
            dialled.add(
                    InProcessChannelBuilder.forName("nobody").directExecutor().build());
            return dialled.get(dialled.size() - 1);
        })) {
            write(certificate, "CERTIFICATE", another.certificate());
            assertThrows(KubevendException.class, client::whoAmI);
            assertEquals(1, dialled.size());
            assertFalse(dialled.get(0).isShutdown());

            write(key, "PRIVATE KEY", another.key());
            assertThrows(KubevendException.class, client::whoAmI);
            assertEquals(2, dialled.size());
            assertTrue(dialled.get(0).isShutdown());
        }
    }
}
