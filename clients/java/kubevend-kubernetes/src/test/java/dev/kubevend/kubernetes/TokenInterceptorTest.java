package dev.kubevend.kubernetes;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.protobuf.Duration;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import dev.kubevend.ConnectionSettings;
import dev.kubevend.Kubevend;
import dev.kubevend.TokenRequest;
import dev.kubevend.TokenSource;
import dev.kubevend.v1.IssueServiceGrpc;
import dev.kubevend.v1.IssueTokenResponse;
import dev.kubevend.v1.StreamTokensRequest;
import dev.kubevend.v1.StreamTokensResponse;
import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientException;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TokenInterceptorTest {
    private static final byte[] NONE = "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[]}"
            .getBytes(StandardCharsets.UTF_8);

    @TempDir
    private Path folder;

    private final List<String> requestIds = new CopyOnWriteArrayList<>();
    private final List<String> shown = new CopyOnWriteArrayList<>();
    private final Set<String> refused = ConcurrentHashMap.newKeySet();
    private volatile int status = 401;
    private HttpServer cluster;
    private Server vending;
    private Kubevend kubevend;
    private TokenSource source;
    private KubernetesClient client;

    /** Sends one token on each stream: {@code token-1}, {@code token-2} and so on. */
    private final class Issuing extends IssueServiceGrpc.IssueServiceImplBase {
        @Override
        public synchronized void streamTokens(
                StreamTokensRequest request, StreamObserver<StreamTokensResponse> answers) {
            requestIds.add(request.getIssue().getRequestId());
            answers.onNext(StreamTokensResponse.newBuilder()
                    .setToken(IssueTokenResponse.newBuilder()
                            .setToken("token-" + requestIds.size())
                            .setGrantedTtl(Duration.newBuilder().setSeconds(600)))
                    .build());
        }
    }

    @BeforeEach
    void start() throws IOException {
        cluster = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        cluster.createContext("/", this::answer);
        cluster.start();
        vending = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(new Issuing())
                .build()
                .start();
        kubevend = Kubevend.connect(ConnectionSettings.of("127.0.0.1:" + vending.getPort())
                .plaintext()
                .build());
        source = kubevend.tokenSource(TokenRequest.ofRole("ci"));
        client = KubevendKubernetes.client(
                source, Config.fromKubeconfig(kubeconfig().toFile()));
    }

    @AfterEach
    void stop() {
        client.close();
        source.close();
        kubevend.close();
        vending.shutdownNow();
        cluster.stop(0);
    }

    private void answer(HttpExchange exchange) throws IOException {
        String authorization = exchange.getRequestHeaders().getFirst("Authorization");
        shown.add(String.join(", ", exchange.getRequestHeaders().get("Authorization")));
        if (refused.contains(authorization)) {
            exchange.sendResponseHeaders(status, -1);
        } else {
            exchange.getResponseHeaders().add("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, NONE.length);
            exchange.getResponseBody().write(NONE);
        }
        exchange.close();
    }

    private Path kubeconfig() throws IOException {
        return Files.writeString(
                folder.resolve("kubeconfig"), """
                apiVersion: v1
                kind: Config
                clusters: [{name: here, cluster: {server: "http://127.0.0.1:%d"}}]
                users: [{name: somebody, user: {token: somebodys-own}}]
                contexts: [{name: it, context: {cluster: here, user: somebody}}]
                current-context: it
                """.formatted(cluster.getAddress().getPort()));
    }

    private void list() {
        client.configMaps().inNamespace("apps").list();
    }

    @Test
    void eachRequestShowsTheTokenThatIsGoodNow() {
        list();
        source.invalidate(source.token());
        list();

        assertEquals(List.of("Bearer token-1", "Bearer token-2"), shown);
    }

    @Test
    void aRequestThatIsRefusedIsMadeOnceMoreWithATokenOfAnotherLease() {
        refused.add("Bearer token-1");
        list();
        list();

        assertEquals(List.of("Bearer token-1", "Bearer token-2", "Bearer token-2"), shown);
        assertNotEquals(requestIds.get(0), requestIds.get(1));
    }

    @Test
    void aRequestThatIsRefusedAgainFails() {
        refused.addAll(List.of("Bearer token-1", "Bearer token-2", "Bearer token-3"));

        assertEquals(
                401, assertThrows(KubernetesClientException.class, this::list).getCode());
        assertEquals(List.of("Bearer token-1", "Bearer token-2"), shown);
    }

    @Test
    void otherFailuresCostNoToken() {
        status = 403;
        refused.add("Bearer token-1");

        assertEquals(
                403, assertThrows(KubernetesClientException.class, this::list).getCode());
        assertEquals(List.of("Bearer token-1"), shown);
        assertEquals("token-1", source.token().value());
    }
}
