#!/usr/bin/env bash
# Kills a run with SIGKILL at random moments, starts it again each time, and compares what it leaves
# with what an unbroken run of the same seed leaves: the same version ids in the same order, every
# move of `champion` once, as many episodes and decisions. Needs build/release/tools/evolora.
#
#   tools/crash_check.sh BASE_FILE [STREAM [KILLS [SEED]]]
#     STREAM  default data/streams/tiny.jsonl    KILLS  default 10    SEED  of run and moments, default 1
#   EVOLORA=<binary> and CRASH_FOLDER=<folder for both homes, emptied first> override the defaults.
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

EVOLORA=${EVOLORA:-build/release/tools/evolora}
CRASH_FOLDER=${CRASH_FOLDER:-build/crash-check}
STREAM=data/streams/tiny.jsonl
KILLS=10
SEED=1

run() { # run HOME LOG: in this process group or its own, as the caller wants
  exec "$EVOLORA" run --base base --stream "$STREAM" --seed "$SEED" --home "$1" --json >>"$2" 2>>"$2.err"
}

# What a home remembers of its run, without times and places.
remains() {
  "$EVOLORA" log --home "$1" --json | sed -E 's/"(at_unix_ms|seconds)":[0-9.e+-]+,?//g' | sort
}

unbroken() {
  local start=$SECONDS
  "$EVOLORA" base add "$1" --name base --home "$CRASH_FOLDER/unbroken"
  (run "$CRASH_FOLDER/unbroken" "$CRASH_FOLDER/unbroken.log")
  echo $((SECONDS - start)) >"$CRASH_FOLDER/seconds"
}

# One start that is killed after a random part of what a whole run takes; false when it came to its end.
killed_once() {
  local whole pid delay
  whole=$(<"$CRASH_FOLDER/seconds")
  delay=$(((RANDOM * 32768 + RANDOM) % (whole * 1000 / KILLS * 2 + 1) + 100)) # milliseconds
  (
    set -m
    (run "$CRASH_FOLDER/broken" "$CRASH_FOLDER/broken.log") &
    pid=$!
    echo "killed after $delay ms" >&3
    for ((waited = 0; waited < delay; waited += 50)); do
      kill -0 "$pid" 2>/dev/null || exit 1
      sleep 0.05
    done
    kill -KILL -- "-$pid" || exit 1
    wait "$pid" || true
  ) 3>>"$CRASH_FOLDER/moments"
}

broken() {
  local count=0
  "$EVOLORA" base add "$1" --name base --home "$CRASH_FOLDER/broken"
  while ((count < KILLS)) && killed_once; do count=$((count + 1)); done
  echo "$count kills"
  (run "$CRASH_FOLDER/broken" "$CRASH_FOLDER/broken.log")
  ((count == KILLS)) || { echo "the run came to its end after $count kills"; return 1; }
}

compare() {
  remains "$CRASH_FOLDER/unbroken" >"$CRASH_FOLDER/unbroken.remains"
  remains "$CRASH_FOLDER/broken" >"$CRASH_FOLDER/broken.remains"
  [[ -s $CRASH_FOLDER/unbroken.remains ]] && diff "$CRASH_FOLDER/unbroken.remains" "$CRASH_FOLDER/broken.remains"
}

main() {
  [[ $# -ge 1 && $# -le 4 ]] || die "usage: tools/crash_check.sh BASE_FILE [STREAM [KILLS [SEED]]]"
  [[ -e $1 ]] || die "no base model at '$1'"
  [[ -x $EVOLORA ]] || die "no program at '$EVOLORA': build it first, with tools/test.sh or tools/quickstart.sh"
  STREAM=${2:-$STREAM} KILLS=${3:-$KILLS} SEED=${4:-$SEED}
  RANDOM=$SEED
  rm -rf "$CRASH_FOLDER" && mkdir -p "$CRASH_FOLDER"
  step "unbroken run" unbroken "$1"
  step "run with $KILLS kills" broken "$1"
  step "same remains" compare
  echo "$SCRIPT: $(wc -l <"$CRASH_FOLDER/broken.remains") lines of log, both the same"
}

main "$@"
