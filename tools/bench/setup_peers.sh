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
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check llama-cpp-python==0.3.36
"$folder/bin/python" -c 'import llama_cpp; print(f"llama-cpp-python {llama_cpp.__version__}")'
