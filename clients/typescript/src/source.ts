import { EventEmitter } from "node:events";

import { type Timestamp, timestampMs } from "@bufbuild/protobuf/wkt";

import { pauseAfterRefusalMs, pauseMs } from "./backoff.js";
import type { Clock } from "./clock.js";
import { clientError, KubevendError } from "./errors.js";
import type { IssueTokenRequest, StreamTokensResponse } from "./gen/kubevend/v1/issue_service_pb.js";
import { issueRequest, type TokenRequest } from "./request.js";
import { Token } from "./token.js";
import { Waiters } from "./waiters.js";

const TIMEOUT_MS = 10_000;
const FIRST_ANSWER_MS = 30_000;
// A token that is given up so soon after it came makes its successor wait, the longer the more often that happens.
const SOON_MS = 60_000;
const SILENT = "STREAM_SILENT";
const REVOKED = "LEASE_REVOKED";
const PASSING: ReadonlySet<string> = new Set([SILENT, "SERVER_STOPPING"]);
const OF_REQUEST_IDS: ReadonlySet<string> = new Set(["ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT"]);
const REOPEN = Symbol("the token was given up");

/** What a source tells its listeners. An error of a listener becomes a warning of the process, and does no other harm. */
export interface TokenSourceEvents {
  /** A lease was ended before its time: its token is not handed out any longer, and another one is asked for. */
  revoked: [lease: string, message: string];

  /** No further token is allowed. The one that is there is handed out until its end. */
  refused: [error: KubevendError];
}

/** How long to wait for a token where there is none. */
export interface WaitOptions {
  /** Ends the waiting with the signal's reason. */
  signal?: AbortSignal | undefined;

  /** In milliseconds. Default: 10 s. */
  timeoutMs?: number | undefined;
}

/** What a source works with. */
export interface TokenSourceParts {
  /** Opens a stream of tokens, which the signal ends. */
  open: (issue: IssueTokenRequest, signal: AbortSignal) => AsyncIterable<StreamTokensResponse>;
  /** The time. */
  clock: Clock;
  /** From 0 to 1. */
  random: () => number;
  /** A new UUID, version 4. */
  uuid: () => string;
  /** Is told of the end. */
  onClose?: (source: TokenSource) => void;
}

interface Held {
  readonly token: Token;
  readonly arrived: number;
  readonly until: number;
}

/**
 * Keeps one valid token, for all who ask: {@link Client.tokenSource} makes it.
 *
 * The first `token()` opens one stream of tokens, on which the server sends the next one in time. While kubevend cannot be reached,
 * the token that is there is handed out until shortly before its end, and the stream is opened again, with growing pauses. An open
 * stream keeps the process alive, as any connection does; `close` or `await using` ends it. The pauses do not.
 */
export class TokenSource extends EventEmitter<TokenSourceEvents> {
  readonly #role: string;
  readonly #request: TokenRequest;
  readonly #parts: TokenSourceParts;
  readonly #waiters: Waiters;
  #requestId: string;
  #held: Held | undefined;
  #running: Promise<void> | undefined;
  #opening: AbortController | undefined;
  #closed = false;
  /** Ends the pause. */
  #wake: (() => void) | undefined;
  /** Takes back the timer of the stream that is open. */
  #unwatch: () => void = () => undefined;
  /** Whether the stream that is open, or was last, has brought a token. */
  #brought = false;
  /** How the last stream ended; none since a token came. */
  #last: KubevendError | undefined;
  /** The same, where that was a refusal which another attempt alone does not change. */
  #refusal: KubevendError | undefined;
  /** Whether the server refused the last request id, and no token has come since. */
  #renamed = false;
  /** Streams since the last token that brought none. */
  #failures = 0;
  /** Tokens in a row that were given up soon after they came. */
  #drops = 0;
  /** Whether listeners have been told, since the last token, that there will be no other. */
  #told = false;

  /**
   * @param role - `quickstart` or `roles/quickstart`
   * @param request - what each token is to be
   * @param parts - what it works with
   */
  constructor(role: string, request: TokenRequest, parts: TokenSourceParts) {
    super();
    this.#role = role;
    this.#request = request;
    this.#parts = parts;
    this.#waiters = new Waiters(parts.clock);
    this.#requestId = request.requestId ?? parts.uuid();
  }

  /**
   * A valid token: at once while there is one, else as soon as one comes.
   *
   * @throws KubevendError at once where the server refuses for good or the source is closed; in the end, what kept it from
   *   coming, or DEADLINE_EXCEEDED
   */
  async token(options: WaitOptions = {}): Promise<Token> {
    options.signal?.throwIfAborted();
    if (this.#closed) throw closedError();
    const held = this.#valid();
    if (held !== undefined) return held.token;
    if (this.#refusal !== undefined) throw this.#refusal;
    this.#running ??= this.#run();
    return this.#waiters.wait(options.timeoutMs ?? TIMEOUT_MS, options.signal, () => this.#late());
  }

  /**
   * Somebody was refused with this token (401): if it is still the current one, it is dropped, and another one is fetched.
   *
   * @param token - the token, as it was sent
   */
  invalidate(token: Token | string): void {
    const value = typeof token === "string" ? token : token.value;
    const held = this.#held;
    if (held?.token.value !== value || this.#closed) return;
    this.#drop(held);
    this.#opening?.abort(REOPEN);
    this.#wake?.();
  }

  /** End it: the stream, the pauses, and every wait. `token` fails from now on. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#held = undefined;
    this.#opening?.abort(closedError());
    this.#wake?.();
    this.#waiters.fail(closedError());
    this.#parts.onClose?.(this);
    await this.#running;
  }

  /** The same, at the end of an `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #run(): Promise<void> {
    while (!this.#isClosed()) {
      const end = await this.#follow();
      if (!this.#isClosed()) await this.#pause(this.#heed(end));
    }
  }

  // The compiler takes a field for unchanged over an `await`; not so what a method returns.
  #isClosed(): boolean {
    return this.#closed;
  }

  /** One stream, from its opening to its end, which it returns. */
  async #follow(): Promise<unknown> {
    const opening = new AbortController();
    this.#opening = opening;
    this.#brought = false;
    this.#watch(FIRST_ANSWER_MS);
    try {
      const request = issueRequest(this.#role, this.#request, this.#requestId);
      for await (const reply of this.#parts.open(request, opening.signal)) {
        opening.signal.throwIfAborted();
        this.#take(reply);
      }
      const message = "The server ended the stream of tokens without a reason.";
      return new KubevendError("UNAVAILABLE", message, { reason: "STREAM_ENDED" });
    } catch (error) {
      return error;
    } finally {
      this.#unwatch();
      this.#opening = undefined;
    }
  }

  #take({ event, nextTokenTime }: StreamTokensResponse): void {
    if (event.case === "token") this.#hold(new Token(event.value), nextTokenTime);
    // Of any other notice the stream's end says the same, and more.
    else if (event.case === "notice" && event.value.reason === REVOKED) {
      this.#revoke(event.value.lease, event.value.message);
    }
  }

  #hold(token: Token, next: Timestamp | undefined): void {
    const arrived = this.#parts.clock.now();
    const life = token.grantedTtlSeconds * 1000;
    this.#held = { token, arrived, until: arrived + life - Math.min(10_000, life / 10) };
    this.#brought = true;
    this.#told = false;
    this.#last = undefined;
    this.#refusal = undefined;
    this.#renamed = false;
    this.#failures = 0;
    this.#watch(Math.max(0.85 * life, lifeBeforeNextMs(token, next)));
    this.#waiters.serve(token);
  }

  #valid(): Held | undefined {
    const held = this.#held;
    return held !== undefined && this.#parts.clock.now() < held.until ? held : undefined;
  }

  /** No longer hand out the token, nor ask for its lease again. */
  #drop(held: Held): void {
    const soon = this.#parts.clock.now() - held.arrived <= SOON_MS;
    this.#drops = soon ? this.#drops + 1 : 1;
    this.#held = undefined;
    this.#last = undefined;
    this.#refusal = undefined;
    this.#requestId = this.#parts.uuid();
  }

  #revoke(lease: string, message: string): void {
    const held = this.#held;
    if (held?.token.lease === lease) {
      this.#drop(held);
      this.#watch(FIRST_ANSWER_MS); // the stream ends now
    }
    this.#tell("revoked", lease, message);
  }

  /** What follows from the end of a stream: for how many milliseconds to pause. */
  #heed(end: unknown): number {
    if (end === REOPEN) return this.#pauseAfterDrop();
    const error = asKubevendError(end);
    if (error.reason === REVOKED) {
      const held = this.#held;
      if (held !== undefined) this.#revoke(held.token.lease, error.message); // its notice did not arrive
      return this.#pauseAfterDrop();
    }
    this.#last = error;
    this.#refusal = undefined;
    if (this.#opensAtOnce(error)) return 0;
    const failuresBefore = this.#failures++;
    if (error.permanent) this.#refuse(error);
    const pause = error.permanent ? pauseAfterRefusalMs : pauseMs;
    return Math.max(pause(failuresBefore, this.#parts.random), error.retryAfterMs ?? 0);
  }

  #pauseAfterDrop(): number {
    return this.#drops > 1 ? pauseMs(this.#drops - 2, this.#parts.random) : 0;
  }

  /**
   * Whether the next stream is opened at once: where the request id was of no more use, and another one may be; or where a
   * stream that brought a token ends because the server stops, the next token did not come, or the caller's own credential
   * expired (its file may hold another one by now).
   */
  #opensAtOnce({ code, reason }: KubevendError): boolean {
    if (OF_REQUEST_IDS.has(code) && reason.startsWith("REQUEST_ID_")) {
      this.#requestId = this.#parts.uuid();
      const first = !this.#renamed;
      this.#renamed = true;
      return first;
    }
    return this.#brought && (PASSING.has(reason) || code === "UNAUTHENTICATED");
  }

  #refuse(error: KubevendError): void {
    this.#refusal = error;
    this.#waiters.fail(error);
    if (this.#valid() === undefined || this.#told) return;
    this.#told = true;
    this.#tell("refused", error);
  }

  #pause(ms: number): Promise<void> {
    if (this.#closed || ms <= 0) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = this.#parts.clock.after(ms, () => this.#wake?.(), false);
      this.#wake = () => {
        this.#wake = undefined;
        cancel();
        resolve();
      };
    });
  }

  /** Take the stream for dead if nothing comes for so long. */
  #watch(ms: number): void {
    this.#unwatch();
    const stream = this.#opening;
    const message = "The stream of tokens brought nothing in time, and was opened anew.";
    const error = new KubevendError("UNAVAILABLE", message, { reason: SILENT });
    this.#unwatch = this.#parts.clock.after(ms, () => stream?.abort(error), false);
  }

  #late(): Error {
    const message = "No token came in time. Wait for longer, or look whether kubevend answers.";
    return this.#last ?? new KubevendError("DEADLINE_EXCEEDED", message, { reason: "NO_TOKEN_IN_TIME" });
  }

  #tell<E extends keyof TokenSourceEvents>(event: E, ...told: TokenSourceEvents[E]): void {
    for (const listener of this.rawListeners(event)) {
      const run = async (): Promise<void> => {
        await (listener as (...told: TokenSourceEvents[E]) => unknown).apply(this, told);
      };
      run().catch((error: unknown) => {
        const why = error instanceof Error ? error.message : String(error);
        process.emitWarning(`A listener of a TokenSource's ${event} failed: ${why}`, "KubevendWarning");
      });
    }
  }
}

/**
 * When in a token's life its successor is overdue, where the server means to send it late: after half of what is left by then. All
 * three times are the server's.
 */
function lifeBeforeNextMs(token: Token, next: Timestamp | undefined): number {
  if (next === undefined) return 0;
  const left = token.expiration.getTime() - timestampMs(next);
  return token.grantedTtlSeconds * 1000 - Math.max(0, left) / 2;
}

function asKubevendError(error: unknown): KubevendError {
  if (error instanceof KubevendError) return error;
  const why = error instanceof Error ? error.message : String(error);
  return new KubevendError("INTERNAL", `The stream of tokens failed: ${why}`, { cause: error });
}

function closedError(): KubevendError {
  return clientError("SOURCE_CLOSED", "This source of tokens was closed. Make another one, or close it later.");
}
