#!/bin/sh
# Makes the Python environment that golden values and peer measurements are taken with.
#
#   tools/golden/setup_peers.sh [FOLDER]     default: build/peers
#
# Then run a tool with FOLDER/bin/python. Calling it again repairs or keeps the environment.
set -eu

folder=${1:-build/peers}
python=${PYTHON:-python3}

if [ ! -x "$folder/bin/python" ]; then
  "$python" -m venv "$folder"
fi
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.11.0 transformers==5.23.0 peft==0.21.0 gguf safetensors sentencepiece numpy
"$folder/bin/python" - <<'PYTHON'
import peft, torch, transformers
print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
PYTHON
