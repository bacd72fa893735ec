import assert from "node:assert/strict";

import { KubevendError } from "../../src/errors.js";
import type { IssueTokenRequest, StreamTokensResponse } from "../../src/v1.js";
import { settled } from "./manual-clock.js";

/** One stream that was opened: what it was asked, and how it goes on. */
export class ScriptedStream {
  readonly #replies: StreamTokensResponse[] = [];
  #end: { error: unknown } | undefined;
  #wake: () => void = () => undefined;

  constructor(
    readonly issue: IssueTokenRequest,
    readonly signal: AbortSignal,
  ) {
    signal.addEventListener("abort", () => {
      this.#finish(signal.reason);
    });
  }

  /** Send an answer. */
  async send(reply: StreamTokensResponse): Promise<void> {
    this.#replies.push(reply);
    this.#wake();
    await settled();
  }

  /** End it with a status. */
  async end(code: KubevendError["code"], reason = "", retryAfterMs?: number): Promise<void> {
    const facts = retryAfterMs === undefined ? { reason } : { reason, retryAfterMs };
    this.#finish(new KubevendError(code, `${code} ${reason}`, facts));
    await settled();
  }

  async *run(): AsyncGenerator<StreamTokensResponse, void, undefined> {
    for (;;) {
      const reply = this.#replies.shift();
      if (reply !== undefined) yield reply;
      else if (this.#end !== undefined) throw this.#end.error;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  #finish(error: unknown): void {
    this.#end ??= { error };
    this.#wake();
  }
}

/** A server at which streams of tokens are opened, and that does what a test says. */
export class ScriptedServer {
  readonly streams: ScriptedStream[] = [];

  open = (issue: IssueTokenRequest, signal: AbortSignal): AsyncIterable<StreamTokensResponse> => {
    const stream = new ScriptedStream(issue, signal);
    this.streams.push(stream);
    return stream.run();
  };

  /** The last stream. */
  get stream(): ScriptedStream {
    const last = this.streams.at(-1);
    assert(last !== undefined, "no stream was opened");
    return last;
  }
}
