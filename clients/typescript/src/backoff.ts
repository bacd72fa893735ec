const FIRST_MS = 500;
const FIRST_AFTER_REFUSAL_MS = 5_000;
const LONGEST_MS = 30_000;

/** Up to so long, and twice as long with each failure before; anywhere in it, so that many clients do not come back together. */
export function pauseMs(failuresBefore: number, random: () => number): number {
  return random() * Math.min(LONGEST_MS, FIRST_MS * 2 ** failuresBefore);
}

/** The same where nobody expects another answer soon: never under 5 s. */
export function pauseAfterRefusalMs(failuresBefore: number, random: () => number): number {
  const longest = Math.min(LONGEST_MS, 2 * FIRST_AFTER_REFUSAL_MS * 2 ** failuresBefore);
  return FIRST_AFTER_REFUSAL_MS + random() * (longest - FIRST_AFTER_REFUSAL_MS);
}
