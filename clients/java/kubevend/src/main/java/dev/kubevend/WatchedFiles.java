package dev.kubevend;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.List;

/** Tells when any of a few files is another one. */
final class WatchedFiles {
    /** What a file is now, as far as can be told without reading it. */
    record Version(Object file, long size, FileTime modified) {}

    private final List<Path> paths;
    private List<Version> seen;

    WatchedFiles(List<Path> paths) {
        this.paths = paths;
    }

    /** What the files are now, which is for {@link #saw}. */
    List<Version> look() throws IOException {
        List<Version> found = new ArrayList<>();
        for (Path path : paths) {
            BasicFileAttributes now = Files.readAttributes(path, BasicFileAttributes.class);
            found.add(new Version(now.fileKey(), now.size(), now.lastModifiedTime()));
        }
        return found;
    }

    /** Whether that is something else than what was seen last. */
    boolean isNews(List<Version> found) {
        return !found.equals(seen);
    }

    /** Takes what {@link #look} has found, once the content is read. */
    void saw(List<Version> found) {
        seen = found;
    }
}
