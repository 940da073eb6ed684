#!/usr/bin/env python3
"""Loads an adapter folder with PEFT and checks that PEFT applies all of it as written.

Usage: check_peft_folder.py ADAPTER_DIR [--base HF_DIR] [--expected FILE] [--prompt 1,5,9]

Without --base a tiny random Llama is built whose layers fit the adapter's tensors. Checks:
  1. adapter_model.safetensors opens, holds only lora_A/lora_B pairs, of a DoRA with magnitudes, all finite
  2. PeftModel.from_pretrained gives no warning, no missing and no unexpected key
  3. every tensor of the file stands in the model, bit for bit, and no other adapter weight exists
  4. logits differ from the base's and equal those of the base with W + scale * B A put into each layer, its
     rows brought to the magnitudes' lengths (in float64 but for the norms, which transformers computes in fp32)
  5. with --expected (one logit a line, of the last prompt token): equal in fp32 within 1e-4
Prints one line a check; the exit status is 1 when one fails. Needs torch, transformers, peft, safetensors.
"""
import argparse
import collections
import json
import os
import re
import sys
import warnings

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

PREFIX = "base_model.model."
failures = 0


def report(ok, what):
    global failures
    failures += not ok
    print(("ok    " if ok else "FAIL  ") + what)


def load_pairs(path, use_dora):
    pairs = collections.defaultdict(dict)
    for name, tensor in load_file(path).items():
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_(?:([AB])\.weight|(magnitude)_vector)", name)
        if not match:
            report(False, f"tensor {name} is not plain LoRA")
            continue
        if not torch.isfinite(tensor).all():
            report(False, f"{name} is not finite")
        pairs[match[1]][match[2] or match[3]] = tensor
    parts = {"A", "B", "magnitude"} if use_dora else {"A", "B"}
    bad = [path for path, pair in pairs.items() if set(pair) != parts]
    report(bool(pairs) and not bad, f"{len(pairs)} modules, all with {', '.join(sorted(parts))} {bad or ''}")
    return pairs


def tiny_base(pairs):
    """A random Llama that has every adapted layer in the size that the tensors want."""
    sizes = {}
    layers = 1
    for path, pair in pairs.items():
        sizes[path.split(".")[-1]] = (pair["A"].shape[1], pair["B"].shape[0])
        layers = max(layers, 1 + int(re.search(r"\.(\d+)\.", path)[1]))
    hidden = next((sizes[n][0] for n in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj") if n in sizes), None)
    hidden = hidden or next(sizes[n][1] for n in ("o_proj", "down_proj") if n in sizes)
    inner = next((sizes[n][1] for n in ("gate_proj", "up_proj") if n in sizes), None)
    inner = inner or (sizes["down_proj"][0] if "down_proj" in sizes else 2 * hidden)
    q = sizes["q_proj"][1] if "q_proj" in sizes else sizes.get("o_proj", (hidden,))[0]
    kv = sizes["k_proj"][1] if "k_proj" in sizes else sizes.get("v_proj", (0, q))[1]
    head = 4 if q % 4 == 0 and kv % 4 == 0 else 2
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=q // head, num_key_value_heads=kv // head, head_dim=head,
        max_position_embeddings=128, initializer_range=0.2))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("adapter")
    parser.add_argument("--base")
    parser.add_argument("--expected")
    parser.add_argument("--prompt", default="1,5,9,2,7")
    args = parser.parse_args()
    config = json.load(open(os.path.join(args.adapter, "adapter_config.json")))
    pairs = load_pairs(os.path.join(args.adapter, "adapter_model.safetensors"),
                       config.get("use_dora", False))
    if failures:
        return 1
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32) if args.base else tiny_base(pairs)
    base.eval()
    nowhere = sorted(set(pairs) - {name for name, _ in base.named_modules()})
    report(not nowhere, f"modules that the base lacks: {nowhere or 'none'}")
    if failures:
        return 1
    ids = torch.tensor([[int(x) for x in args.prompt.split(",")]])
    with torch.no_grad():
        plain = base(ids).logits
        # The adapter put in by hand, on a copy in float64.
        merged = type(base)(base.config).double().eval()
        merged.load_state_dict(base.state_dict(), strict=True)
        scale = config["lora_alpha"] / config["r"]
        for path, pair in pairs.items():
            module = merged.get_submodule(path)
            module.weight += scale * pair["B"].double() @ pair["A"].double()
            if "magnitude" in pair:
                module.weight *= (pair["magnitude"].double() / module.weight.norm(dim=1)).unsqueeze(1)
        by_hand = merged(ids).logits
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(base, args.adapter).eval()
        said = [str(w.message) for w in caught if not issubclass(w.category, (FutureWarning, DeprecationWarning))]
        report(not said, f"PEFT warnings: {said or 'none'}")
        result = model.load_adapter(args.adapter, adapter_name="again")
        unexpected = [k for k in result.unexpected_keys]
        missing = [k for k in result.missing_keys if "lora_" in k and ".again." in k]
        report(not missing and not unexpected, f"missing {missing or 'none'}, unexpected {unexpected or 'none'}")
        adapted = {n: m for n, m in model.base_model.model.named_modules() if isinstance(m, LoraLayer)}
        report(set(adapted) == set(pairs), f"PEFT adapts {len(adapted)} modules, the file holds {len(pairs)}")
        equal = all(
            torch.equal(adapted[p].lora_A["default"].weight, pair["A"].float())
            and torch.equal(adapted[p].lora_B["default"].weight, pair["B"].float())
            and ("magnitude" not in pair
                 or torch.equal(adapted[p].lora_magnitude_vector["default"].weight, pair["magnitude"].float()))
            for p, pair in pairs.items() if p in adapted)
        report(equal, "every tensor of the file stands in the model")
        scales = {m.scaling["default"] for m in adapted.values()}
        report(scales == {scale}, f"scaling {scales}, alpha / r {scale}")
        model.set_adapter("default")
        single = model(ids).logits
        double = model.double()(ids).logits
    effect = (double - plain.double()).abs().max().item()
    error = (double - by_hand).abs().max().item()
    report(effect > 1e-6, f"the adapter moves the logits by up to {effect:.3g}")
    report(error < 1e-5 * max(1, by_hand.abs().max().item()), f"PEFT and the weights by hand differ by {error:.3g} (float64)")
    if args.expected:
        expected = torch.tensor([float(x) for x in open(args.expected).read().split()])
        error = (single[0, -1] - expected).abs().max().item()
        report(error < 1e-4, f"expected logits differ by {error:.3g} (fp32)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
