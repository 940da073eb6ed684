#!/usr/bin/env python3
"""Writes the fixtures of the adapter readers with the reference libraries (peft, safetensors).

Usage: peft_golden.py OUT_DIR      (OUT_DIR = tests/fixtures/adapters; needs torch, transformers, peft)

  OUT_DIR/official.safetensors     two tensors of each element type, by the official writer
  OUT_DIR/peft_patterns/           a folder that PEFT saved: rank_pattern, alpha_pattern and rsLoRA
  OUT_DIR/peft_patterns/expected.txt
      one line a module: path, rank, in, out, scaling that PEFT applies, and the sum over i of
      (i mod 97) * delta[i] of its delta weight in float64, a check sum of scale * B A
"""
import os
import shutil
import sys

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

TYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8,
    "u8": torch.uint8, "bool": torch.bool,
}


def official(path):
    tensors = {}
    for i, (name, dtype) in enumerate(TYPES.items()):
        tensors["b." + name] = torch.arange(6).reshape(2, 3).add(i).to(dtype)
        tensors['a."' + name + '"\\'] = torch.tensor(i).to(dtype)
    tensors["empty"] = torch.zeros(0, 4)
    save_file(tensors, path, metadata={"format": "pt"})


def patterns(folder):
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1))
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 3, "q_proj": 2, r".*layers\.[01]\.mlp\.\w+": 5},
        alpha_pattern={"^model.layers.0.self_attn.v_proj": 11, "layers.1.*": 7, "v_proj": 13})
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    with open(os.path.join(folder, "expected.txt"), "w") as out:
        for name, layer in sorted(model.base_model.model.named_modules()):
            if not isinstance(layer, LoraLayer):
                continue
            a = layer.lora_A["default"].weight.double()
            b = layer.lora_B["default"].weight.double()
            delta = (b @ a * layer.scaling["default"]).flatten()
            check = (torch.arange(delta.numel()) % 97 * delta).sum().item()
            print(name, a.shape[0], a.shape[1], b.shape[0], repr(layer.scaling["default"]), repr(check), file=out)


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    official(os.path.join(sys.argv[1], "official.safetensors"))
    folder = os.path.join(sys.argv[1], "peft_patterns")
    shutil.rmtree(folder, ignore_errors=True)
    patterns(folder)
