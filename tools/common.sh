# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, not run. Sets ROOT and EVOLORA_JOBS, goes to ROOT.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
export EVOLORA_JOBS=${EVOLORA_JOBS:-$(nproc)}
SCRIPT=$(basename "$0" .sh) # the name in front of each line

# One clear sentence and out.
die() {
  echo "$SCRIPT: $*" >&2
  exit 1
}

[[ $EVOLORA_JOBS =~ ^[1-9][0-9]*$ ]] || die "EVOLORA_JOBS must be a positive number, not '$EVOLORA_JOBS'"

# A home that cannot be written (sudo, containers) must not stop the compiler cache.
if [[ ! -w ${HOME:-/nonexistent} ]]; then
  export CCACHE_DIR=${CCACHE_DIR:-$ROOT/.cache/ccache}
fi

# step NAME COMMAND...: runs it with its output in build/logs, prints one line; stops the script
# with the end of the log when it fails.
step() {
  local name=$1 log start=$SECONDS
  shift
  mkdir -p build/logs
  log=build/logs/$SCRIPT-${name//[^a-z0-9]/-}.log
  printf '%s: %s ... ' "$SCRIPT" "$name"
  if "$@" >"$log" 2>&1; then
    echo "ok ($((SECONDS - start)) s)"
  else
    echo "FAILED after $((SECONDS - start)) s; the end of $log:"
    tail -n 60 "$log"
    exit 1
  fi
}

# configure FOLDER [cmake options]: quiet when FOLDER is configured with these options already.
configure() {
  local folder=$1 stamp="$1/.configured-with"
  shift
  if [[ -f $folder/build.ninja && -f $stamp && $(<"$stamp") == "$*" ]]; then
    return 0 # ninja itself runs cmake again when a CMakeLists.txt has changed
  fi
  cmake -G Ninja -S . -B "$folder" "$@" && echo "$*" >"$stamp"
}

compile() {
  cmake --build "$1" -j "$EVOLORA_JOBS" --target "${@:2}"
}
