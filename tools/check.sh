#!/usr/bin/env bash
# What a change must pass before it is proposed: build, header check, ctest -L cpu, format, and
# clang-tidy on the sources that differ from a base revision.
#
#   tools/check.sh [base]    base: a git revision, default origin/main, else main, else HEAD~1
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

base_revision() {
  local revision
  for revision in "$@" origin/main main HEAD~1; do
    if git rev-parse -q --verify "$revision^{commit}"; then return; fi
  done
  die "no base revision to compare with"
}

build_all() {
  configure build/release -DCMAKE_BUILD_TYPE=Release -DEVOLORA_TESTS=ON &&
    compile build/release all all_verify_interface_header_sets
}

run_ctest() {
  ctest --test-dir build/release -L cpu -j "$EVOLORA_JOBS" --output-on-failure --no-tests=error
}

# Changed sources that the build compiles; a header is checked through the sources that include it.
changed_sources() {
  git diff --name-only --diff-filter=d -z "$1" -- '*.cc' |
    while IFS= read -r -d '' file; do
      if grep -qF "\"file\": \"$ROOT/$file\"" build/release/compile_commands.json; then
        printf '%s\0' "$file"
      fi
    done
}

tidy() {
  # GCC's precompiled headers mean nothing to clang: the database is stripped of them first.
  mkdir -p build/tidy
  sed -E 's/-Winvalid-pch//; s/-include [^ ]*cmake_pch\.hxx//' build/release/compile_commands.json \
    >build/tidy/compile_commands.json
  changed_sources "$1" | xargs -0 -r -n 1 -P "$EVOLORA_JOBS" clang-tidy-14 -p build/tidy --quiet
}

main() {
  local base
  base=$(base_revision "$@")
  tools/setup.sh
  step "build and header check" build_all
  step "tests" run_ctest
  step "format" tools/format.sh
  command -v clang-tidy-14 >/dev/null || die "clang-tidy-14 is missing: apt-get install clang-tidy-14"
  step "tidy since $base" tidy "$base"
}

main "$@"
