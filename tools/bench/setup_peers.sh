#!/bin/sh
# Makes the Python environment of the peers that tools/bench measures against: what golden values
# are taken with (torch, transformers, peft) and llama.cpp.
#
#   tools/bench/setup_peers.sh [FOLDER]     default: build/peers
#
# llama-cpp-python builds from source for this CPU: about 12 minutes on 2 cores. Calling the script
# again repairs or keeps the environment.
set -eu

folder=${1:-build/peers}
here=$(cd "$(dirname "$0")" && pwd)

"$here/../golden/setup_peers.sh" "$folder"
# What its build finds out by itself dies of an illegal instruction on virtual machines with AMX;
# AVX-512 alone runs.
if grep -q amx_tile /proc/cpuinfo; then
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON"
    CMAKE_ARGS="$CMAKE_ARGS -DGGML_BMI2=ON -DGGML_AVX_VNNI=ON -DGGML_AVX512=ON"
    CMAKE_ARGS="$CMAKE_ARGS -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
    export CMAKE_ARGS
fi
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
    llama-cpp-python==0.3.36
"$folder/bin/python" -c 'import llama_cpp; print(f"llama-cpp-python {llama_cpp.__version__}")'
