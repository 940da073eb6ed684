"""Steps of LoRA training by transformers + PEFT on random weights, as device_benchmark takes them.

Usage: peft_device.py --model 8b|4b|1b|0.6b|tiny --length S [--tokens T] [--micro-batch T]
                      [--steps N] [--warmup N] [--rank R] [--device cuda] [--liger]

bf16 base, fp32 adapters under autocast (PEFT's default), SDPA, no gradient checkpointing, rows of
one length without padding, fused AdamW, clipping. --liger: with Liger's kernels for the family.
Prints one JSON object.
"""

import argparse
import json
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen3Config

# As in device_benchmark.cc: vocabulary, width, MLP width, layers, heads, key heads, head width.
SHAPES = {
    "8b": (LlamaConfig, (128256, 4096, 14336, 32, 32, 8, 128), False),
    "4b": (Qwen3Config, (151936, 2560, 9728, 36, 32, 8, 128), True),
    "1b": (LlamaConfig, (128256, 2048, 8192, 16, 32, 8, 64), True),
    "0.6b": (Qwen3Config, (151936, 1024, 3072, 28, 16, 8, 128), True),
    "tiny": (Qwen3Config, (512, 64, 128, 2, 4, 2, 16), True),
}


def make_model(name: str, device: str) -> PreTrainedModel:
    family, (vocabulary, width, mlp, layers, heads, key_heads, head_width), tied = SHAPES[name]
    config = family(vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp,
                    num_hidden_layers=layers, num_attention_heads=heads,
                    num_key_value_heads=key_heads, head_dim=head_width,
                    max_position_embeddings=131072, tie_word_embeddings=tied, use_cache=False)
    torch.manual_seed(1)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16,
                                                attn_implementation="sdpa")


def apply_liger(name: str) -> None:
    from liger_kernel import transformers as liger  # here: only where it is installed
    (liger.apply_liger_kernel_to_qwen3 if SHAPES[name][0] is Qwen3Config
     else liger.apply_liger_kernel_to_llama)()


class Trainer:
    """One optimiser step at a time over the same rows."""

    def __init__(self, args: argparse.Namespace) -> None:
        if args.liger:
            apply_liger(args.model)
        model = make_model(args.model, args.device)
        config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear",
                            task_type="CAUSAL_LM")
        self._model = get_peft_model(model, config).train()
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=3e-4, weight_decay=0, fused=True)
        rows = max(1, args.tokens // args.length)
        self._ids = torch.randint(0, model.config.vocab_size, (rows, args.length),
                                  device=args.device)
        self._at_once = max(1, (args.micro_batch or args.tokens) // args.length)
        self._device = args.device
        self.tokens = rows * args.length
        self._targets = torch.tensor(rows * (args.length - 1), device=args.device)

    def step(self) -> float:
        total = 0.0
        for ids in self._ids.split(self._at_once):
            with torch.autocast(self._device.split(":")[0], dtype=torch.bfloat16):
                loss = self._model(input_ids=ids, labels=ids,
                                   num_items_in_batch=self._targets).loss
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(total)


def measure(args: argparse.Namespace) -> dict[str, float | str]:
    trainer = Trainer(args)
    seconds, loss = [], 0.0
    for step in range(args.warmup + args.steps):
        started = time.perf_counter()
        loss = trainer.step()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        if step >= args.warmup:
            seconds.append(time.perf_counter() - started)
    median = statistics.median_high(seconds)
    result = {"engine": "peft+liger" if args.liger else "peft", "model": args.model,
              "length": args.length, "tokens_per_step": trainer.tokens,
              "micro_batch": args.micro_batch or args.tokens, "precision": "bf16",
              "rank": args.rank, "seconds_per_step": median, "fastest_step": min(seconds),
              "slowest_step": max(seconds), "tokens_per_second": trainer.tokens / median,
              "loss": loss}
    if args.device.startswith("cuda"):
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--micro-batch", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=["bf16"], default="bf16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--liger", action="store_true")
    try:
        print(json.dumps(measure(parser.parse_args())))
    except torch.cuda.OutOfMemoryError as error:
        raise SystemExit(f"peft_device: out of memory: {error}") from error


if __name__ == "__main__":
    main()
