package dev.kubevend.kubernetes;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.kubevend.ConnectionSettings;
import dev.kubevend.Kubevend;
import dev.kubevend.TokenRequest;
import dev.kubevend.TokenSource;
import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.ConfigBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import org.junit.jupiter.api.Test;

class KubevendKubernetesTest {
    private static Config used(Config config) {
        try (Kubevend kubevend = Kubevend.connect(
                        ConnectionSettings.of("127.0.0.1:1").plaintext().build());
                TokenSource source = kubevend.tokenSource(TokenRequest.ofRole("ci"));
                KubernetesClient client = KubevendKubernetes.client(source, config)) {
            return client.getConfiguration();
        }
    }

    @Test
    void nobodyElsesCredentialsAreShown() {
        Config used = used(new ConfigBuilder(Config.empty())
                .withMasterUrl("https://cluster.example:6443")
                .withClientCertData("a certificate")
                .withClientKeyData("a key")
                .withClientCertFile("/certificate")
                .withClientKeyFile("/key")
                .withOauthToken("a token")
                .withOauthTokenProvider(() -> "another token")
                .withUsername("somebody")
                .withPassword("secret")
                .build());

        assertNull(used.getClientCertData());
        assertNull(used.getClientKeyData());
        assertNull(used.getClientCertFile());
        assertNull(used.getClientKeyFile());
        assertNull(used.getOauthToken());
        assertNull(used.getOauthTokenProvider());
        assertNull(used.getUsername());
        assertNull(used.getPassword());
        assertNull(used.getAuthProvider());
    }

    @Test
    void aTokenGoesToNoServerInPlainText() {
        Config plain = new ConfigBuilder(Config.empty())
                .withMasterUrl("http://cluster.example:6443")
                .build();

        IllegalArgumentException refused = assertThrows(IllegalArgumentException.class, () -> used(plain));
        assertTrue(refused.getMessage().contains("https://cluster.example:6443"), refused.getMessage());
    }

    @Test
    void whereTheClusterIsStays() {
        Config used = used(new ConfigBuilder(Config.empty())
                .withMasterUrl("https://cluster.example:6443")
                .withCaCertData("an authority")
                .withNamespace("apps")
                .withImpersonateUsername("jane")
                .build());

        assertEquals("https://cluster.example:6443/", used.getMasterUrl());
        assertEquals("an authority", used.getCaCertData());
        assertEquals("apps", used.getNamespace());
        assertEquals("jane", used.getImpersonateUsername());
    }
}
