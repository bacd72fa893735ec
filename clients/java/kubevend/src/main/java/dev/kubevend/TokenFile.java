package dev.kubevend;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** The token that is in a file now; it is read again when it is another file. */
final class TokenFile {
    private final Path path;
    private final WatchedFiles file;
    private String token;

    TokenFile(Path path) {
        this.path = path;
        this.file = new WatchedFiles(List.of(path));
    }

    /** Throws {@link KubevendException} where there is none. */
    synchronized String current() {
        try {
            List<WatchedFiles.Version> found = file.look();
            if (file.isNews(found)) {
                token = read();
                file.saw(found);
            }
            return token;
        } catch (IOException unreadable) {
            throw KubevendException.unreadable("The token file", "KUBEVEND_TOKEN_FILE (tokenFile)", unreadable);
        }
    }

    private String read() throws IOException {
        String content = Files.readString(path).strip();
        if (content.isEmpty() || content.chars().anyMatch(each -> each <= ' ' || each > '~')) {
            throw new IOException("there is no token in " + path + ", or more than one");
        }
        return content;
    }
}
