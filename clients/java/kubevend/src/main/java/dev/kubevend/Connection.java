package dev.kubevend;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptors.CheckedForwardingClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.io.IOException;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;

/**
 * What the generated clients call. It looks at the files of the settings before each call: where CA or certificate are other ones,
 * that call and those after it take a new channel, and the old one ends with the last call on it.
 *
 * <p>A certificate that only the next handshake showed would not do: the server looks at each call whether the one that it was shown
 * is still good.
 */
final class Connection extends Channel implements AutoCloseable {
    private static final Logger LOG = System.getLogger(Kubevend.class.getName());
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private static final long LONGEST_WITHOUT_TRYING = TimeUnit.SECONDS.toNanos(10);

    /** Makes a channel with what is in the files now. */
    interface Dialer {
        ManagedChannel dial();
    }

    /** gRPC's, with the number of calls on it. */
    private static final class Opened {
        private final ManagedChannel channel;
        private int calls;
        private long tried = System.nanoTime();

        Opened(ManagedChannel channel) {
            this.channel = channel;
        }
    }

    private final Dialer dialer;
    private final WatchedFiles files;
    private final TokenFile tokenFile; // null where the caller shows none
    // All of these only by one thread at a time.
    private final Set<Opened> open = new HashSet<>();
    private Opened newest;
    private boolean closed;

    /** Throws {@link KubevendException} where one of the files is of no use. */
    Connection(ConnectionSettings settings, Dialer dialer) {
        this.dialer = dialer;
        this.files = new WatchedFiles(settings.tlsFiles());
        this.tokenFile = settings.tokenFile().map(TokenFile::new).orElse(null);
        if (tokenFile != null) {
            tokenFile.current();
        }
        renew(look());
    }

    @Override
    public synchronized String authority() {
        return newest.channel.authority();
    }

    @Override
    public <Q, A> ClientCall<Q, A> newCall(MethodDescriptor<Q, A> method, CallOptions options) {
        Opened chosen = begin();
        return new CheckedForwardingClientCall<>(chosen.channel.newCall(method, limited(method, options))) {
            @Override
            protected void checkedStart(ClientCall.Listener<A> listener, Metadata headers) {
                try {
                    authorize(headers);
                    delegate().start(new Ending<>(listener, chosen), headers);
                } catch (RuntimeException notStarted) { // no token in the file, or cancelled before
                    end(chosen);
                    throw notStarted;
                }
            }
        };
    }

    @Override
    public synchronized void close() {
        closed = true;
        open.forEach(each -> each.channel.shutdownNow());
        open.clear();
    }

    private final class Ending<A> extends SimpleForwardingClientCallListener<A> {
        private final Opened on;

        Ending(ClientCall.Listener<A> listener, Opened on) {
            super(listener);
            this.on = on;
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            end(on);
            super.onClose(status, trailers);
        }
    }

    private static CallOptions limited(MethodDescriptor<?, ?> method, CallOptions options) {
        boolean endless = options.getDeadline() == null && method.getType() == MethodDescriptor.MethodType.UNARY;
        return endless
                ? options.withDeadlineAfter(Kubevend.DEFAULT_TIMEOUT.toMillis(), TimeUnit.MILLISECONDS)
                : options;
    }

    private void authorize(Metadata headers) {
        synchronized (this) {
            if (closed) {
                throw KubevendException.local(
                        Status.Code.CANCELLED,
                        "CLIENT_CLOSED",
                        "The client was closed: make another one, or close it later.",
                        null);
            }
        }
        if (tokenFile != null) {
            headers.put(AUTHORIZATION, "Bearer " + tokenFile.current());
        }
    }

    /** Gives a call its channel. */
    private synchronized Opened begin() {
        List<WatchedFiles.Version> found = look();
        if (!closed && found != null && files.isNews(found)) {
            try {
                renew(found);
            } catch (KubevendException unusable) {
                // In the midst of being replaced, say. They are looked at again with the next call.
                LOG.log(Level.DEBUG, "The files of a kubevend connection cannot be used yet", unusable);
            }
        }
        hasten(newest);
        newest.calls++;
        return newest;
    }

    private synchronized void end(Opened call) {
        call.calls--;
        retire(call);
    }

    /** What the files are; null where one is missing. */
    private List<WatchedFiles.Version> look() {
        try {
            return files.look();
        } catch (IOException missing) {
            return null; // reading it tells which
        }
    }

    private synchronized void renew(List<WatchedFiles.Version> found) {
        Opened opened = new Opened(dialer.dial());
        Opened old = newest;
        newest = opened;
        open.add(opened);
        files.saw(found);
        if (old != null) {
            retire(old);
        }
    }

    /** Closes a channel on which no call is, nor will be. */
    private void retire(Opened old) {
        if (old != newest && old.calls == 0 && open.remove(old)) {
            old.channel.shutdown();
        }
    }

    /** gRPC's own pauses between two attempts to connect grow to two minutes, in which every call would fail. */
    private static void hasten(Opened channel) {
        long now = System.nanoTime();
        boolean failing = channel.channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE;
        if (failing && now - channel.tried > LONGEST_WITHOUT_TRYING) {
            channel.tried = now;
            channel.channel.resetConnectBackoff();
        }
    }
}
