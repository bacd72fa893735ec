package dev.kubevend;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.Test;

class ConnectionSettingsTest {
    @Test
    void theEnvironmentSaysWhereAndAsWhom() {
        ConnectionSettings settings = ConnectionSettings.fromEnvironment(Map.of(
                "KUBEVEND_ADDRESS", "kubevend:7443", "KUBEVEND_CA_FILE", "/ca", "KUBEVEND_TOKEN_FILE", "/token"));

        assertEquals("kubevend:7443", settings.address());
        assertEquals(Optional.of(Path.of("/ca")), settings.caFile());
        assertEquals(Optional.of(Path.of("/token")), settings.tokenFile());
    }

    @Test
    void aMissingAddressIsNamed() {
        IllegalArgumentException missing =
                assertThrows(IllegalArgumentException.class, () -> ConnectionSettings.fromEnvironment(Map.of()));
        assertTrue(missing.getMessage().contains("KUBEVEND_ADDRESS"));
    }

    @Test
    void twoIdentitiesAreRefused() {
        Map<String, String> both = Map.of(
                "KUBEVEND_ADDRESS", "kubevend:7443",
                "KUBEVEND_TOKEN_FILE", "/token",
                "KUBEVEND_CLIENT_CERT_FILE", "/certificate",
                "KUBEVEND_CLIENT_KEY_FILE", "/key");
        assertThrows(IllegalArgumentException.class, () -> ConnectionSettings.fromEnvironment(both));
    }

    @Test
    void plainTextIsForLoopbackAlone() {
        assertThrows(
                IllegalArgumentException.class,
                () -> ConnectionSettings.of("kubevend:7443").plaintext().build());
        assertTrue(ConnectionSettings.of("127.0.0.1:7443").plaintext().build().plaintext());
    }
}
