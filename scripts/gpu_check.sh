#!/bin/sh
# Everything that is to be seen on a machine with a GPU, in at most four and a half minutes; one JSON for all.
#
#   scripts/gpu_check.sh [part ...]      parts: device tests scenes variants overhead profiles; all if none is named
#
# From a copy of the repository's src, tests, benchmarks and scripts, on a machine with python3, torch, triton, numba,
# scipy, pytest and pytest-xdist, and no network. Results: $OUT (or the current folder): gpu.json, tests.log, ncu-*.txt.
set -u
cd "$(dirname "$0")/.." || exit 2
OUT=${OUT:-$PWD}
LIMIT=${LIMIT:-265}
export OUT PYTHONPATH="$PWD/src:$PWD" PYTHONUNBUFFERED=1
timeout -k 5 "$LIMIT" python3 -m benchmarks.gpu_check --out "$OUT" --seconds $((LIMIT - 8)) "$@" 2>&1 | tee "$OUT/gpu_check.log"
