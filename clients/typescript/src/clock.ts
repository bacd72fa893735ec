import { performance } from "node:perf_hooks";

// setTimeout fires at once when it is asked for more.
const LONGEST_MS = 2 ** 31 - 1;

/** The time, as the library asks for it; tests have one of their own. */
export interface Clock {
  /** Milliseconds that only ever grow, whatever becomes of the time of day. */
  now(): number;

  /**
   * Do something later.
   *
   * @param ms - in how many milliseconds
   * @param act - what
   * @param holds - whether the process stays alive for that
   * @returns what takes it back
   */
  after(ms: number, act: () => void, holds: boolean): () => void;
}

/** The machine's clock. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after: (ms, act, holds) => {
    const timer = setTimeout(act, Math.min(ms, LONGEST_MS));
    if (!holds) timer.unref();
    return () => {
      clearTimeout(timer);
    };
  },
};
