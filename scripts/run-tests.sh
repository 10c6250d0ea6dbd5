#!/usr/bin/env bash
# Everything that the tests need, then the tests: scripts/run-tests.sh [PATTERN…]. The last line counts them.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec npm test --silent -- "$@"
