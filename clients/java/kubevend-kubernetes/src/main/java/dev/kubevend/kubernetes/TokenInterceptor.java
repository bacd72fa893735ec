package dev.kubevend.kubernetes;

import dev.kubevend.Token;
import dev.kubevend.TokenSource;
import io.fabric8.kubernetes.client.http.BasicBuilder;
import io.fabric8.kubernetes.client.http.HttpRequest;
import io.fabric8.kubernetes.client.http.HttpResponse;
import io.fabric8.kubernetes.client.http.Interceptor;
import java.util.concurrent.CompletableFuture;

/** Shows the source's token with each request, and another one where the API server no longer takes it. */
final class TokenInterceptor implements Interceptor {
    private static final int UNAUTHORIZED = 401;

    private final TokenSource source;

    TokenInterceptor(TokenSource source) {
        this.source = source;
    }

    @Override
    public void before(BasicBuilder builder, HttpRequest request, RequestTags tags) {
        show(builder, source.token());
    }

    @Override
    public CompletableFuture<Boolean> afterFailure(BasicBuilder builder, HttpResponse<?> response, RequestTags tags) {
        if (response.code() != UNAUTHORIZED) {
            return CompletableFuture.completedFuture(false);
        }
        String shown = response.request() == null
                ? ""
                : String.valueOf(response.request().header("Authorization"));
        return CompletableFuture.supplyAsync(() -> {
            Token held = source.token();
            if (shown.equals("Bearer " + held.value())) {
                source.invalidate(held);
                held = source.token();
            }
            show(builder, held);
            return true;
        });
    }

    private static void show(BasicBuilder builder, Token token) {
        builder.setHeader("Authorization", "Bearer " + token.value());
    }
}
