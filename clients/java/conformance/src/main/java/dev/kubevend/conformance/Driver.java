package dev.kubevend.conformance;

import dev.kubevend.ConnectionSettings;
import dev.kubevend.Kubevend;
import dev.kubevend.KubevendException;
import dev.kubevend.Token;
import dev.kubevend.TokenListener;
import dev.kubevend.TokenRequest;
import dev.kubevend.TokenSource;
import dev.kubevend.kubernetes.KubevendKubernetes;
import dev.kubevend.v1.Warning;
import io.fabric8.kubernetes.client.ConfigBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.ObjectMapper;

/** Does with the library what it is told, one JSON object a line: see tests/conformance/README.md. */
public final class Driver {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Kubevend kubevend;
    private final KubevendException unusable; // null where it is not
    private final Map<String, Used> sources = new ConcurrentHashMap<>();
    private final ExecutorService threads = Executors.newCachedThreadPool();

    /** A source, the Kubernetes client that it is in, and what it has told. */
    private static final class Used implements TokenListener {
        private final TokenSource source;
        private final KubernetesClient client;
        private final List<String> revoked = new CopyOnWriteArrayList<>();
        private final List<String> refused = new CopyOnWriteArrayList<>();
        private final AtomicReference<Load> load = new AtomicReference<>();

        Used(TokenSource source) {
            this.source = source;
            source.addListener(this);
            this.client = KubevendKubernetes.client(
                    source,
                    new ConfigBuilder(io.fabric8.kubernetes.client.Config.empty())
                            .withMasterUrl(System.getenv("KUBERNETES_HOST"))
                            .withCaCertFile(System.getenv("KUBERNETES_CA_FILE"))
                            .withRequestRetryBackoffLimit(0)
                            .build());
        }

        @Override
        public void onRevoked(String lease, String message) {
            revoked.add(lease);
        }

        @Override
        public void onRefused(KubevendException refusal) {
            refused.add(refusal.reason());
        }

        void use() {
            client.configMaps().inNamespace(System.getenv("NAMESPACE")).list();
        }

        void close() {
            client.close();
            source.close();
        }
    }

    /** Requests one after another, until they are to stop. */
    private static final class Load {
        private final AtomicInteger requests = new AtomicInteger();
        private final AtomicInteger failed = new AtomicInteger();
        private final AtomicReference<String> firstFailure = new AtomicReference<>("");
        private final Set<String> tokens = ConcurrentHashMap.newKeySet();
        private final List<Future<?>> workers = new ArrayList<>();
        private volatile boolean stopped;

        void run(Used used) {
            while (!stopped) {
                try {
                    tokens.add(used.source.token().jti());
                    used.use();
                } catch (RuntimeException failure) {
                    failed.incrementAndGet();
                    firstFailure.compareAndSet("", failure.toString());
                }
                requests.incrementAndGet();
            }
        }
    }

    private Driver() {
        Kubevend connected = null;
        KubevendException failed = null;
        try {
            connected = Kubevend.connect(ConnectionSettings.fromEnvironment());
        } catch (KubevendException unreadable) {
            failed = unreadable; // what every command is answered with
        }
        this.kubevend = connected;
        this.unusable = failed;
    }

    /**
     * Runs until the end of stdin.
     *
     * @param arguments none
     * @throws IOException stdin cannot be read
     */
    public static void main(String[] arguments) throws IOException {
        new Driver().run();
    }

    private void run() throws IOException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonNode command = JSON.readTree(line);
            threads.execute(() -> answer(command));
        }
        sources.values().forEach(Used::close);
        if (kubevend != null) {
            kubevend.close();
        }
        threads.shutdown();
    }

    private void answer(JsonNode command) {
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("id", command.get("id").asLong());
        try {
            answer.putAll(perform(command));
        } catch (KubevendException refused) {
            answer.put("error", described(refused));
        } catch (KubernetesClientException refused) {
            answer.put(
                    "error",
                    Map.of("code", "HTTP_" + refused.getCode(), "reason", "", "message", refused.getMessage()));
        } catch (Exception failure) {
            answer.put(
                    "error",
                    Map.of("code", "DEFECT", "reason", failure.getClass().getSimpleName(), "message", "" + failure));
        }
        synchronized (System.out) {
            System.out.println(JSON.writeValueAsString(answer));
            System.out.flush();
        }
    }

    private Map<String, Object> perform(JsonNode command) throws Exception {
        if (unusable != null) {
            throw unusable;
        }
        String verb = command.get("do").asString();
        Duration timeout = Duration.ofMillis(command.path("timeout_ms").asLong(10_000));
        switch (verb) {
            case "issue":
                return told(kubevend.issue(request(command), timeout));
            case "whoami":
                return Map.of("name", kubevend.whoAmI().getName());
            case "open":
                sources.put(command.get("source").asString(), new Used(kubevend.tokenSource(request(command))));
                return Map.of("ok", true);
            default:
                return performOn(sources.get(command.get("source").asString()), verb, command, timeout);
        }
    }

    private Map<String, Object> performOn(Used used, String verb, JsonNode command, Duration timeout) throws Exception {
        switch (verb) {
            case "token":
                return told(used.source.token(timeout));
            case "tokens":
                return Map.of("tokens", atOnce(command.get("count").asInt(), () -> digest(used.source.token(timeout))));
            case "invalidate":
                used.source.invalidate(used.source.token(timeout));
                return Map.of("ok", true);
            case "told":
                return Map.of("revoked", used.revoked, "refused", used.refused);
            case "use":
                used.use();
                return Map.of("ok", true);
            case "load_start":
                return startLoad(used, command.path("workers").asInt(4));
            case "load_stop":
                return stopLoad(used);
            case "close":
                used.close();
                return Map.of("ok", true);
            default:
                throw new IllegalArgumentException(verb);
        }
    }

    private Map<String, Object> startLoad(Used used, int workers) {
        Load load = new Load();
        used.load.set(load);
        for (int worker = 0; worker < workers; worker++) {
            load.workers.add(threads.submit(() -> load.run(used)));
        }
        return Map.of("ok", true);
    }

    private Map<String, Object> stopLoad(Used used) throws InterruptedException, ExecutionException {
        Load load = used.load.getAndSet(null);
        load.stopped = true;
        for (Future<?> worker : load.workers) {
            worker.get();
        }
        return Map.of(
                "requests", load.requests.get(),
                "failed", load.failed.get(),
                "first_failure", load.firstFailure.get(),
                "tokens", load.tokens.size());
    }

    private Set<String> atOnce(int count, Callable<String> what) throws InterruptedException, ExecutionException {
        Set<String> found = ConcurrentHashMap.newKeySet();
        List<Callable<String>> all = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            all.add(what);
        }
        for (Future<String> each : threads.invokeAll(all)) {
            found.add(each.get());
        }
        return found;
    }

    private static TokenRequest request(JsonNode command) {
        TokenRequest request = TokenRequest.ofRole(command.get("role").asString());
        if (command.has("namespace")) {
            request.namespace(command.get("namespace").asString());
        }
        if (command.has("service_account_name")) {
            request.serviceAccountName(command.get("service_account_name").asString());
        }
        if (command.has("ttl_seconds")) {
            request.ttl(Duration.ofSeconds(command.get("ttl_seconds").asLong()));
        }
        if (command.has("min_ttl_seconds")) {
            request.minTtl(Duration.ofSeconds(command.get("min_ttl_seconds").asLong()));
        }
        if (command.has("request_id")) {
            request.requestId(command.get("request_id").asString());
        }
        if (command.path("validate_only").asBoolean()) {
            request.validateOnly();
        }
        List<String> audiences = new ArrayList<>();
        command.path("audiences").forEach(audience -> audiences.add(audience.asString()));
        return request.audiences(audiences);
    }

    private static Map<String, Object> told(Token token) {
        return Map.of(
                "token", digest(token),
                "lease", token.lease(),
                "jti", token.jti(),
                "granted_ttl_seconds", token.grantedTtl().toSeconds(),
                "replayed", token.replayed(),
                "warnings", token.warnings().stream().map(Warning::getReason).toList());
    }

    private static Map<String, Object> described(KubevendException refused) {
        return Map.of(
                "code", refused.isLocal() ? "CLIENT" : refused.code().name(),
                "reason", refused.reason(),
                "message", refused.getMessage(),
                "metadata", refused.metadata(),
                "violations",
                        refused.violations().stream()
                                .map(KubevendException.Violation::field)
                                .toList());
    }

    private static String digest(Token token) {
        try {
            byte[] whole =
                    MessageDigest.getInstance("SHA-256").digest(token.value().getBytes(StandardCharsets.UTF_8));
            return HexFormat.of().formatHex(whole, 0, 8);
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException(impossible);
        }
    }
}
