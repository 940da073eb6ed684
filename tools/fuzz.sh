#!/usr/bin/env bash
# Feeds every reader of untrusted bytes with mutated inputs under the address and undefined-behaviour
# sanitizers (tests/support/mutate.h); a crash, a bad read or an error without words fails.
#
#   tools/fuzz.sh [ITERATIONS [SEED]]    default 100000 inputs a reader, each test's own seed
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

FOLDER=build/fuzz
# Test programs and which of their tests read mutated bytes.
READERS=(
  "tests/fuzz/adapters_fuzz_test *"
  "tests/fuzz/json_fuzz_test *"
  "tests/fuzz/model_fuzz_test *"
  "tests/data/tokenizer_mutation_test *"
  "tests/data/stream_test *Mutat*"
  "tests/data/array_file_test *Mutations*"
  "tests/eval/verify_test *NoOutputBreaksIt*"
  "tests/state/artifact_state_test *Mutated*"
)

build_readers() {
  configure "$FOLDER" -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1" \
    -DEVOLORA_TESTS=ON -DEVOLORA_SANITIZER=address,undefined &&
    compile "$FOLDER" "${READERS[@]/%' '*/}"
}

# LibTorch is built without ASan: containers that cross its border look overflown, and what it keeps
# to its end looks leaked.
fuzz() { # fuzz PROGRAM FILTER
  ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=0 EVOLORA_SOURCE_DIR=$ROOT \
    "$FOLDER/$1" "--gtest_filter=$2"
}

main() {
  local reader
  [[ $# -le 2 ]] || die "usage: tools/fuzz.sh [ITERATIONS [SEED]]"
  export EVOLORA_FUZZ_ITERATIONS=${1:-100000}
  [[ $EVOLORA_FUZZ_ITERATIONS =~ ^[1-9][0-9]*$ ]] || die "ITERATIONS must be a positive number, not '$1'"
  if [[ $# -eq 2 ]]; then export EVOLORA_FUZZ_SEED=$2; fi
  tools/setup.sh
  step "sanitized build" build_readers
  for reader in "${READERS[@]}"; do
    step "$(basename "${reader% *}")" fuzz "${reader% *}" "${reader#* }"
  done
  echo "$SCRIPT: $EVOLORA_FUZZ_ITERATIONS mutated inputs for each reader, none broke it"
}

main "$@"
