#!/usr/bin/env bash
# Sets up, builds and tests everything a machine without a GPU can: the release build, the CUDA
# kernels where nvcc is (compiled and linked, not run), the LibTorch-free modules under ASan + UBSan and under TSan.
#
#   tools/test.sh            EVOLORA_JOBS=<n> limits the parallel jobs
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

find_nvcc() {
  command -v nvcc || compgen -G "/usr/local/cuda/bin/nvcc" || true
}

run_ctest() {
  "${@:2}" ctest --test-dir "$1" -L cpu -j "$EVOLORA_JOBS" --output-on-failure --no-tests=error
}

# Runs a command at fixed addresses where that is allowed: GCC 12's TSan refuses the wide address
# randomisation of new kernels.
fixed_addresses() {
  if setarch -R true 2>/dev/null; then setarch -R "$@"; else "$@"; fi
}

# sanitized NAME FLAGS: builds and tests the modules without LibTorch with -fsanitize=FLAGS.
sanitized() {
  local folder=build/$1
  step "$1 build" build_sanitized "$folder" "$2"
  step "$1 tests" run_ctest "$folder" fixed_addresses
  echo "$SCRIPT: $1: $(grep 'tests passed' "build/logs/$SCRIPT-$1-tests.log")"
}

build_sanitized() {
  configure "$1" -DEVOLORA_TORCH=OFF -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" \
    "-DEVOLORA_SANITIZER=$2" && compile "$1" all
}

build_release() {
  configure build/release -DCMAKE_BUILD_TYPE=Release -DEVOLORA_TESTS=ON && compile build/release all
}

check_headers() {
  compile build/release all_verify_interface_header_sets
}

build_cuda() {
  configure build/cuda -DCMAKE_BUILD_TYPE=Release -DEVOLORA_TESTS=ON -DEVOLORA_CUDA=ON \
    "-DCMAKE_CUDA_COMPILER=$1" &&
    compile build/cuda evolora_cuda device_kernels_gpu_test trainers_device_path_gpu_test evolora
}

main() {
  local nvcc
  tools/setup.sh
  step "release build" build_release
  step "header check" check_headers
  nvcc=$(find_nvcc)
  if [[ -n $nvcc ]]; then
    step "cuda compile" build_cuda "$nvcc"
  else
    echo "$SCRIPT: cuda compile ... skipped, there is no nvcc"
  fi
  sanitized asan address,undefined
  sanitized tsan thread
  echo "$SCRIPT: release tests"
  run_ctest build/release
}

main "$@"
