#!/bin/bash
# Builds vpnsrv and vpncli as they were at another commit.
#
#   scripts/before.sh COMMIT DIRECTORY
set -euo pipefail

mkdir -p "$2"
out=$(realpath "$2")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
git archive "$1" | tar -x -C "$tree"
cd "$tree"
go build -trimpath -ldflags "-s -w -X main.version=$1" -o "$out/" ./cmd/vpnsrv ./cmd/vpncli
