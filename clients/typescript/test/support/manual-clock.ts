import type { Clock } from "../../src/clock.js";

interface Timer {
  at: number;
  act: () => void;
  holds: boolean;
}

/** A clock that stands until it is moved. */
export class ManualClock implements Clock {
  readonly timers = new Set<Timer>();
  #now = 0;

  now(): number {
    return this.#now;
  }

  after(ms: number, act: () => void, holds: boolean): () => void {
    const timer = { at: this.#now + ms, act, holds };
    this.timers.add(timer);
    return () => this.timers.delete(timer);
  }

  /** How long until something is due. */
  get next(): number | undefined {
    const times = [...this.timers].map(({ at }) => at);
    return times.length === 0 ? undefined : Math.min(...times) - this.#now;
  }

  /** Go on by so many seconds, and do what is due. */
  async pass(seconds: number): Promise<void> {
    this.#now += seconds * 1000;
    for (const timer of [...this.timers].filter(({ at }) => at <= this.#now)) {
      this.timers.delete(timer);
      timer.act();
    }
    await settled();
  }
}

/** Let everything happen that waits for nothing but its turn. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
}
