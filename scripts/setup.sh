#!/usr/bin/env bash
# Makes `rlhf` runnable from this folder: npm packages, a Vulkan driver where no adapter is found, the bundle, and
# build/bin/rlhf, which the other scripts put on their PATH. Does only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "setup: $*" >&2
  exit 1
}

command -v npm > /dev/null || fail 'Node.js 20 or newer and npm are needed'
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] ||
  fail "Node.js 20 or newer is needed, this is $(node --version)"

if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  echo 'setup: installing npm packages' >&2
  npm ci >&2
fi

# Without root and without sudo only a person can install the driver: say how.
install_driver() {
  if [ "$(id -u)" = 0 ]; then
    sh scripts/install-vulkan.sh >&2
  elif command -v sudo > /dev/null && { sudo -n true 2> /dev/null || [ -t 0 ]; }; then
    sudo sh scripts/install-vulkan.sh >&2
  else
    fail "no adapter; as root, run: sh $PWD/scripts/install-vulkan.sh"
  fi
}

export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}"
if ! adapter=$(node scripts/find-adapter.mjs 2> /dev/null); then
  echo 'setup: no GPU adapter found, installing the software Vulkan driver' >&2
  install_driver
  adapter=$(node scripts/find-adapter.mjs) || fail 'there is still no adapter that Dawn accepts; see: rlhf doctor'
fi
echo "setup: adapter $adapter" >&2

sources='src kernels package.json tsup.config.ts'
# shellcheck disable=SC2086  # several words
if [ ! -e dist/cli.js ] || [ -n "$(find $sources -newer dist/cli.js -print -quit)" ]; then
  echo 'setup: building' >&2
  npm run --silent build >&2
fi

mkdir -p build/bin
printf '#!/bin/sh\nexec node "%s/dist/cli.js" "$@"\n' "$PWD" > build/bin/rlhf
chmod +x build/bin/rlhf
