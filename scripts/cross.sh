#!/bin/bash
# Builds all programs for every supported target:  scripts/cross.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
for target in linux/amd64 linux/arm64 linux/arm/6 linux/mipsle/softfloat linux/riscv64; do
    IFS=/ read -r os arch variant <<<"$target"
    out=bin/cross/$arch
    mkdir -p "$out"
    case $arch in
    arm) export GOARM=$variant ;;
    mipsle) export GOMIPS=$variant ;;
    esac
    CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -ldflags "-s -w -X main.version=${1:-devel}" -o "$out/" ./cmd/vpnsrv ./cmd/vpncli ./cmd/ferry-penguin
    ls -l "$out" | awk -v a="$arch" 'NR>1{printf "%-8s %-7s %5.1f MiB\n", a, $NF, $5/1048576}'
done
