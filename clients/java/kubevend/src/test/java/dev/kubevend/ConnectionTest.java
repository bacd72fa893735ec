package dev.kubevend;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.kubevend.v1.IdentityServiceGrpc;
import dev.kubevend.v1.WhoAmIRequest;
import dev.kubevend.v1.WhoAmIResponse;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.inprocess.InProcessChannelBuilder;
import io.grpc.inprocess.InProcessServerBuilder;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ConnectionTest {
    private static final Context.Key<String> SHOWN = Context.key("shown");

    @TempDir
    private Path folder;

    private final String name = InProcessServerBuilder.generateName();
    private final List<ManagedChannel> dialled = new ArrayList<>();
    private final List<StreamObserver<WhoAmIResponse>> waiting = new ArrayList<>();
    private boolean keepsWaiting;
    private boolean hadDeadline;
    private Server server;
    private Kubevend client;

    /** Says what it was shown. */
    private final class Identity extends IdentityServiceGrpc.IdentityServiceImplBase {
        @Override
        public void whoAmI(WhoAmIRequest request, StreamObserver<WhoAmIResponse> answers) {
            hadDeadline = Context.current().getDeadline() != null;
            if (keepsWaiting) {
                waiting.add(answers);
            } else {
                answer(answers);
            }
        }
    }

    private static void answer(StreamObserver<WhoAmIResponse> answers) {
        String shown = SHOWN.get() == null ? "" : SHOWN.get();
        answers.onNext(WhoAmIResponse.newBuilder().setName(shown).build());
        answers.onCompleted();
    }

    private static final class Shown implements ServerInterceptor {
        private static final Metadata.Key<String> AUTHORIZATION =
                Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

        @Override
        public <Q, A> ServerCall.Listener<Q> interceptCall(
                ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
            Context context = Context.current().withValue(SHOWN, headers.get(AUTHORIZATION));
            return Contexts.interceptCall(context, call, headers, next);
        }
    }

    @BeforeEach
    void start() throws IOException {
        server = InProcessServerBuilder.forName(name)
                .directExecutor()
                .addService(new Identity())
                .intercept(new Shown())
                .build();
        server.start();
    }

    @AfterEach
    void stop() {
        client.close();
        server.shutdownNow();
    }

    private void connect(ConnectionSettings.Builder settings) {
        client = Kubevend.connect(settings.build(), this::dial);
    }

    private ManagedChannel dial() {
        ManagedChannel channel =
                InProcessChannelBuilder.forName(name).directExecutor().build();
        dialled.add(channel);
        return channel;
    }

    private Path replace(String file, String content) throws IOException {
        Path fresh = Files.writeString(folder.resolve("fresh"), content);
        return Files.move(fresh, folder.resolve(file), StandardCopyOption.REPLACE_EXISTING);
    }

    private String shown() {
        return client.whoAmI().getName();
    }

    @Test
    void theTokenInTheFileIsShown() throws IOException {
        Path file = replace("token", "one\n");
        connect(ConnectionSettings.of("localhost:1").plaintext().tokenFile(file));

        assertEquals("Bearer one", shown());
        replace("token", "another");
        assertEquals("Bearer another", shown());
        assertEquals(1, dialled.size());
    }

    @Test
    void aFileWithoutATokenIsNamed() throws IOException {
        Path file = replace("token", "one");
        connect(ConnectionSettings.of("localhost:1").plaintext().tokenFile(file));
        Files.delete(file);

        KubevendException missing = assertThrows(KubevendException.class, this::shown);
        assertTrue(missing.isLocal());
        assertEquals("FILE_UNREADABLE", missing.reason());
        assertTrue(missing.getMessage().contains("KUBEVEND_TOKEN_FILE"), missing.getMessage());
        assertTrue(missing.getMessage().contains(file.toString()), missing.getMessage());
        replace("token", "one and another");
        KubevendException two = assertThrows(KubevendException.class, this::shown);
        assertFalse(two.getMessage().contains("another"), two.getMessage());
        replace("token", "two");
        assertEquals("Bearer two", shown());
    }

    @Test
    void anotherAuthorityTakesAnotherChannel() throws IOException {
        connect(ConnectionSettings.of("localhost:1").caFile(replace("ca", "one")));
        shown();
        shown();
        assertEquals(1, dialled.size());
        replace("ca", "another");
        shown();

        assertEquals(2, dialled.size());
        assertTrue(dialled.get(0).isShutdown());
        assertFalse(dialled.get(1).isShutdown());
    }

    @Test
    void aCallThatIsUnderWayKeepsItsChannel() throws IOException {
        connect(ConnectionSettings.of("localhost:1").caFile(replace("ca", "one")));
        keepsWaiting = true;
        List<WhoAmIResponse> answers = new ArrayList<>();
        IdentityServiceGrpc.newStub(client.connection())
                .whoAmI(WhoAmIRequest.getDefaultInstance(), new StreamObserver<>() {
                    @Override
                    public void onNext(WhoAmIResponse answer) {
                        answers.add(answer);
                    }

                    @Override
                    public void onError(Throwable error) {
                        throw new AssertionError(error);
                    }

                    @Override
                    public void onCompleted() {}
                });
        keepsWaiting = false;
        replace("ca", "another");
        shown();

        assertFalse(dialled.get(0).isShutdown());
        answer(waiting.get(0));
        assertEquals(1, answers.size());
        assertTrue(dialled.get(0).isShutdown());
    }

    @Test
    void filesThatAreAwayForAMomentDoNoHarm() throws IOException {
        Path file = replace("ca", "one");
        connect(ConnectionSettings.of("localhost:1").caFile(file));
        Files.delete(file);

        assertEquals("", shown());
        assertEquals(1, dialled.size());
    }

    @Test
    void callsWithoutADeadlineGetOne() {
        connect(ConnectionSettings.of("localhost:1").plaintext());
        IdentityServiceGrpc.newBlockingStub(client.connection()).whoAmI(WhoAmIRequest.getDefaultInstance());

        assertTrue(hadDeadline);
    }

    @Test
    void aClosedClientSaysSo() {
        connect(ConnectionSettings.of("localhost:1").plaintext());
        shown();
        client.close();

        KubevendException closed = assertThrows(KubevendException.class, this::shown);
        assertEquals("CLIENT_CLOSED", closed.reason());
        assertTrue(closed.isLocal());
        assertTrue(dialled.get(0).isShutdown());
    }

    @Test
    void aCaFileOfNoUseIsNamed() throws IOException {
        connect(ConnectionSettings.of("localhost:1").plaintext());
        ConnectionSettings settings = ConnectionSettings.of("localhost:1")
                .caFile(replace("ca", "no PEM"))
                .build();

        KubevendException unusable = assertThrows(KubevendException.class, () -> Kubevend.connect(settings));
        assertEquals("FILE_UNREADABLE", unusable.reason());
        assertTrue(unusable.getMessage().contains("KUBEVEND_CA_FILE"), unusable.getMessage());
        assertNotNull(unusable.getCause());
        assertNull(unusable.retryAfter().orElse(null));
    }
}
