#!/usr/bin/env python3
"""Writes a base model as a Hugging Face folder in fp32 and the adapter that PEFT starts from on it.

Usage: prepare_model.py OUT RANK SHAPE   SHAPE: LlamaConfig's arguments as JSON; random weights
       prepare_model.py OUT RANK GGUF    SmolLM2-135M from its GGUF file, dequantised

  OUT/model   config.json and model.safetensors, no tokenizer
  OUT/init    the adapter, by PEFT on all linear layers, alpha = 2 RANK
"""

import json
import pathlib
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from peft_reference import Recipe, export_init

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "golden"))
SEED = 1


def make(source: str) -> PreTrainedModel:
    if not source.startswith("{"):
        from model_golden import load_smollm2  # here: needs gguf
        return load_smollm2(source)
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(**json.loads(source)))


def main() -> None:
    out, rank = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    model = make(sys.argv[3])
    # Rows carry their own ids: no id of the vocabulary ends a generation.
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    model.save_pretrained(out / "model")
    (out / "model/generation_config.json").unlink(missing_ok=True)
    export_init(model, Recipe(rank=rank, alpha=2 * rank), SEED, out / "init")


if __name__ == "__main__":
    main()
