#!/usr/bin/env bash
# The lint of the Go library's modules. Use: bash tools/go_lint.sh STATICCHECK, with go on PATH.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../clients/go"
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
  printf 'gofmt would write these otherwise; run gofmt -w on them:\n%s\n' "$unformatted"
  exit 1
fi
for module in . kubernetes conformance; do
  cd "$module"
  go mod tidy -diff
  go vet ./...
  "$1" ./...
  cd - >/dev/null
done
