#!/usr/bin/env bash
# Checks that the C++ and CUDA sources have the form of .clang-format; --fix gives it to them.
#
#   tools/format.sh [--fix]
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

main() {
  local mode=(--dry-run -Werror) format
  case ${1:-} in
    '') ;;
    --fix) mode=(-i) ;;
    *) die "unknown argument '$1'" ;;
  esac
  format=$(command -v clang-format-14) || die "clang-format-14 is missing: apt-get install clang-format-14"
  git -c safe.directory="$ROOT" ls-files -z -- '*.h' '*.cc' '*.cu' '*.cuh' |
    xargs -0 -r -n 40 -P "$EVOLORA_JOBS" "$format" "${mode[@]}"
  echo "$SCRIPT: ok"
}

main "$@"
