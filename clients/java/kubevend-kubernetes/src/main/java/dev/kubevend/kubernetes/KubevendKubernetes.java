package dev.kubevend.kubernetes;

import dev.kubevend.TokenSource;
import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.ConfigBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientBuilder;
import io.fabric8.kubernetes.client.utils.TokenRefreshInterceptor;
import java.net.URI;

/** Puts a source of tokens into fabric8's Kubernetes client. */
public final class KubevendKubernetes {
    private KubevendKubernetes() {}

    /**
     * A client that asks a source for the token of each request. A request that the API server answers with 401 is made once more,
     * with another token.
     *
     * @param source where tokens come from; it is not closed with the client
     * @param config where the cluster is. Its credentials are not used, not even a client certificate
     * @return the client
     */
    public static KubernetesClient client(TokenSource source, Config config) {
        return clientBuilder(source, config).build();
    }

    /**
     * The builder of such a client, for what else is to be set.
     *
     * @param source where tokens come from
     * @param config where the cluster is
     * @return the builder
     */
    public static KubernetesClientBuilder clientBuilder(TokenSource source, Config config) {
        return new KubernetesClientBuilder()
                .withConfig(withoutCredentials(config))
                // In the stead of fabric8's own, which after a 401 would read the kubeconfig again, and show its token.
                .withHttpClientBuilderConsumer(builder ->
                        builder.addOrReplaceInterceptor(TokenRefreshInterceptor.NAME, new TokenInterceptor(source)));
    }

    /** Refuses a server to which the token would go in plain text. fabric8 may make one of a host without a scheme. */
    private static void checkServer(URI server) {
        boolean local = server.getHost() != null && server.getHost().matches("localhost|127\\.[0-9.]+|\\[::1]");
        if (!"https".equals(server.getScheme()) && !local) {
            throw new IllegalArgumentException("A token goes to an API server by TLS alone: give "
                    + server.getAuthority() + " as https://" + server.getAuthority() + ".");
        }
    }

    /** Where the cluster is, and nothing by which it could take the caller for somebody else. */
    private static Config withoutCredentials(Config config) {
        Config bare = new ConfigBuilder(config)
                .withAutoConfigure(false) // which would read them anew
                .withClientCertFile(null)
                .withClientCertData(null)
                .withClientKeyFile(null)
                .withClientKeyData(null)
                .withClientKeyPassphrase(null)
                .withKeyStoreFile(null)
                .withKeyStorePassphrase(null)
                .withUsername(null)
                .withPassword(null)
                .withOauthToken(null)
                .withAutoOAuthToken(null)
                .withOauthTokenProvider(null)
                .build();
        bare.setAuthProvider(null);
        checkServer(URI.create(bare.getMasterUrl()));
        return bare;
    }
}
