import assert from "node:assert/strict";
import { test } from "node:test";
import { format, inspect } from "node:util";

import { Token } from "../src/token.js";
import type { IssueTokenResponse } from "../src/v1.js";
import { tokenReply } from "./support/replies.js";

const token = new Token(tokenReply("sensitive").event.value as IssueTokenResponse);

test("a token tells all that the server said", () => {
  assert.equal(token.value, "sensitive");
  assert.equal(token.grantedTtlSeconds, 600);
  assert.deepEqual([token.namespace, token.serviceAccount, token.jti], ["apps", "demo", "jti-sensitive"]);
  assert.equal(token.expiration.toISOString(), "2026-11-24T02:51:02.000Z");
});

test("nothing shows the token but its value", () => {
  const other = new Token({
    ...(tokenReply("sensitive").event.value as IssueTokenResponse),
    lease: "leases/a",
    jti: "j",
  });
  const shown = [
    String(other),
    JSON.stringify(other),
    JSON.stringify({ other }),
    inspect(other),
    inspect({ other }, { showHidden: true, depth: 9 }),
    format("%s %o %O %j", other, other, other, other),
    Object.values(other).join(),
    JSON.stringify(Object.getOwnPropertyDescriptors(other)),
    JSON.stringify(Object.fromEntries(Object.entries(other))),
  ];
  for (const text of shown) assert.doesNotMatch(text, /sensitive/);
  assert.match(JSON.stringify(other), /"lease":"leases\/a"/);
});
