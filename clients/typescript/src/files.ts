import { readFileSync, statSync } from "node:fs";

import { clientError } from "./errors.js";

/**
 * A file that somebody replaces now and then, as kubelets do with tokens and cert-manager with certificates.
 *
 * It is looked at each time (a stat, about 5 microseconds), and read again when it is another one.
 */
export class WatchedFile {
  #seen = "";
  #content: Buffer | undefined;

  /**
   * @param path - the file
   * @param setting - what names it, for messages: `KUBEVEND_TOKEN_FILE`
   */
  constructor(
    readonly path: string,
    readonly setting: string,
  ) {}

  /**
   * What is in it.
   *
   * What cannot be read just now, since something is writing it, does not count until it can: what was good goes on.
   *
   * @throws KubevendError FILE_UNREADABLE, where it could never be read
   */
  read(): Buffer {
    try {
      // Before the reading: what is replaced in between is read once more the next time.
      const { ino, size, mtimeNs } = statSync(this.path, { bigint: true });
      const seen = [ino, size, mtimeNs].join(" ");
      if (this.#content === undefined || seen !== this.#seen) {
        const content = readFileSync(this.path);
        if (content.length === 0) throw new Error("it is empty");
        this.#content = content;
        this.#seen = seen;
      }
    } catch (error) {
      if (this.#content === undefined) throw this.#unreadable(error);
    }
    return this.#content;
  }

  #unreadable(cause: unknown): Error {
    const why = cause instanceof Error ? cause.message : String(cause);
    const advice = "Name a file that is there and that this process may read.";
    return clientError(
      "FILE_UNREADABLE",
      `${this.setting} names ${this.path}, which cannot be read: ${why}. ${advice}`,
      cause,
    );
  }
}
