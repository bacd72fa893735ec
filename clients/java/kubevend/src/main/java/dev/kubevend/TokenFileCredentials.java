package dev.kubevend;

import io.grpc.CallCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.concurrent.Executor;

/** Shows the token that is in a file now; the file is read again when it is another one. */
final class TokenFileCredentials extends CallCredentials {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private record Version(Object file, long size, long modified) {}

  private final Path file;
  private Version version;
  private String token;

  TokenFileCredentials(Path file) {
    this.file = file;
  }

  @Override
  public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
    executor.execute(
        () -> {
          try {
            Metadata headers = new Metadata();
            headers.put(AUTHORIZATION, "Bearer " + current());
            applier.apply(headers);
          } catch (IOException unreadable) {
            applier.fail(
                Status.UNAUTHENTICATED.withDescription(
                    "The token file " + file + " cannot be read (" + unreadable + "): correct KUBEVEND_TOKEN_FILE, "
                        + "or see to it that the file is there."));
          }
        });
  }

  private synchronized String current() throws IOException {
    BasicFileAttributes found = Files.readAttributes(file, BasicFileAttributes.class);
    Version now = new Version(found.fileKey(), found.size(), found.lastModifiedTime().toMillis());
    if (!now.equals(version)) {
      token = Files.readString(file).strip();
      version = now;
    }
    return token;
  }
}
