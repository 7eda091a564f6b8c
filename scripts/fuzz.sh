#!/bin/bash
# Runs every fuzz target for a while:  scripts/fuzz.sh 30s
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
    grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | sed 's/^func //' | while read -r target; do
        echo "== $(dirname "$file") $target"
        # Inputs whose coverage differs from run to run, as with real sockets, would be minimised for a minute each.
        go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 100x "$(dirname "$file")" </dev/null
    done
done
