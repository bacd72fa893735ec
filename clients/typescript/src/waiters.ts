import type { Clock } from "./clock.js";
import type { Token } from "./token.js";

interface Waiter {
  resolve: (token: Token) => void;
  reject: (error: unknown) => void;
}

/** Those who wait for a token, each no longer than it wants to. */
export class Waiters {
  readonly #clock: Clock;
  readonly #waiting = new Set<Waiter>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Wait for `serve` or `fail`. The process stays alive for as long.
   *
   * @param timeoutMs - how long
   * @param signal - ends the waiting with its reason
   * @param late - makes the error of who has waited so long
   */
  wait(timeoutMs: number, signal: AbortSignal | undefined, late: () => Error): Promise<Token> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        resolve: (token) => {
          leave();
          resolve(token);
        },
        reject: (error) => {
          leave();
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- a signal's reason can be anything
          reject(error);
        },
      };
      const abort = (): void => {
        waiter.reject(signal?.reason);
      };
      const cancel = this.#clock.after(
        timeoutMs,
        () => {
          waiter.reject(late());
        },
        true,
      );
      const leave = (): void => {
        this.#waiting.delete(waiter);
        cancel();
        signal?.removeEventListener("abort", abort);
      };
      signal?.addEventListener("abort", abort);
      this.#waiting.add(waiter);
    });
  }

  /** Give all of them a token. */
  serve(token: Token): void {
    for (const waiter of this.#waiting) waiter.resolve(token);
  }

  /** Tell all of them why there is none. */
  fail(error: Error): void {
    for (const waiter of this.#waiting) waiter.reject(error);
  }
}
