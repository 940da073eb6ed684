#!/usr/bin/env bash
# Builds evolora with CUDA on a machine that has a device, runs every test labelled gpu, and times
# LoRA training on random weights of known models' shapes against transformers + PEFT and Liger
# where their environment is (tools/bench/setup_peers.sh; Liger: pip install liger-kernel in it).
# Ends with one table, also in build/gpu-check.md. A test that skips is a failure here.
#
#   tools/gpu_check.sh [arguments of tools/bench/device_table.py, e.g. --models 1b,0.6b]
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BUILD=build/gpu
PEERS=${EVOLORA_PEERS:-build/peers}
VENV=.deps/venv

find_nvcc() {
  local found
  found=$(command -v nvcc) || found=$(compgen -G "/usr/local/cuda*/bin/nvcc" | head -n 1) || return 1
  [[ -n $found ]] && echo "$found"
}

check_device() {
  command -v nvidia-smi >/dev/null || die "no GPU: there is no nvidia-smi, so no driver either"
  nvidia-smi -L >build/logs/gpu_check-devices.log 2>&1 ||
    die "no GPU: nvidia-smi says: $(head -n 1 build/logs/gpu_check-devices.log)"
  grep -q '^GPU 0' build/logs/gpu_check-devices.log || die "no GPU: nvidia-smi lists none"
  echo "$SCRIPT: $(head -n 1 build/logs/gpu_check-devices.log)"
}

# What LibTorch's CUDA libraries load: the wheel's own requirements, which setup.sh leaves out.
install_cuda_wheels() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input -q torch==2.11.0
}

build() {
  local wanted=(device_kernels_gpu_test trainers_device_path_gpu_test device_benchmark evolora)
  configure "$BUILD" -DCMAKE_BUILD_TYPE=Release -DEVOLORA_TESTS=ON -DEVOLORA_CUDA=ON \
    "-DCMAKE_CUDA_COMPILER=$1" -DCMAKE_CUDA_ARCHITECTURES=native &&
    compile "$BUILD" "${wanted[@]}"
}

# One test at a time: they share the device.
run_tests() {
  ctest --test-dir "$BUILD" -L gpu -j 1 --output-on-failure --no-tests=error || return 1
  if grep -q 'SKIPPED' "$BUILD/Testing/Temporary/LastTest.log"; then
    echo "a test skipped although there is a device:"
    grep -B 2 'SKIPPED' "$BUILD/Testing/Temporary/LastTest.log"
    return 1
  fi
}

main() {
  local nvcc
  mkdir -p build/logs
  check_device
  nvcc=$(find_nvcc) || die "no nvcc: install the CUDA 13 toolkit, or put its bin folder in PATH"
  "$nvcc" --version | grep -q 'release 13\.' ||
    die "$nvcc is not of CUDA 13, for which LibTorch's wheel is built"
  tools/setup.sh
  step "cuda libraries" install_cuda_wheels
  step "build" build "$nvcc"
  step "gpu tests" run_tests
  tools/bench/device_table.py --program "$BUILD/tools/bench/device_benchmark" --peers "$PEERS" \
    --out build/gpu-check.md "$@"
}

main "$@"
