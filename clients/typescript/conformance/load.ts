import type { Tokens } from "../src/kubernetes.js";
import { describeError, digest } from "./answers.js";

/** Workers that send one request after another, until they are stopped. */
export class Load {
  #going = true;
  #requests = 0;
  #failed = 0;
  #firstFailure: object | undefined;
  readonly #workers: Promise<void>[];

  /**
   * @param workers - how many
   * @param request - what each sends
   * @param used - the tokens that were asked for
   */
  constructor(
    workers: number,
    private readonly request: () => Promise<unknown>,
    private readonly used: ReadonlySet<string>,
  ) {
    this.#workers = Array.from({ length: workers }, () => this.#work());
  }

  /** Stop them, and tell what came of it. */
  async stop(): Promise<object> {
    this.#going = false;
    await Promise.all(this.#workers);
    const first_failure = this.#firstFailure === undefined ? "" : JSON.stringify(this.#firstFailure);
    return { requests: this.#requests, failed: this.#failed, first_failure, tokens: this.used.size };
  }

  async #work(): Promise<void> {
    while (this.#going) {
      this.#requests++;
      try {
        await this.request();
      } catch (error) {
        this.#failed++;
        this.#firstFailure ??= describeError(error);
      }
    }
  }
}

/** The same source, with a note of which tokens it gave. */
export function noting(source: Tokens, used: Set<string>): Tokens {
  return {
    token: async (options) => {
      const token = await source.token(options);
      used.add(digest(token.value));
      return token;
    },
    invalidate: (token) => {
      source.invalidate(token);
    },
  };
}
