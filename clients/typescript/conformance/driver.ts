/** Does what it is told on stdin: see README.md. */
import { createInterface } from "node:readline";

import { answer, closeAll, type Command } from "./commands.js";
import { describeError } from "./answers.js";

const underWay = new Set<Promise<void>>();

async function run(line: string): Promise<void> {
  const command = JSON.parse(line) as Command;
  const reply = await answer(command).catch((error: unknown) => ({ error: describeError(error) }));
  process.stdout.write(`${JSON.stringify({ id: command.id, ...reply })}\n`);
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim() === "") continue;
  const running = run(line).finally(() => underWay.delete(running));
  underWay.add(running);
}
await closeAll();
await Promise.all(underWay);
