package dev.kubevend.kubernetes;

import dev.kubevend.TokenSource;
import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientBuilder;

/** Puts a source of tokens into fabric8's Kubernetes client. */
public final class KubevendKubernetes {
    private KubevendKubernetes() {}

    /**
     * A client that asks a source for the token of each request. A request that the API server answers with 401 is made once more,
     * with another token.
     *
     * @param source where tokens come from; it is not closed with the client
     * @param config where the cluster is. What it says of credentials is not used
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
                .withConfig(config)
                .withHttpClientBuilderConsumer(
                        builder -> builder.addOrReplaceInterceptor("kubevend", new TokenInterceptor(source)));
    }
}
