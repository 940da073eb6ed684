#!/usr/bin/env python3
"""Writes the reference values under tests/golden/model with transformers and PEFT.

  python tools/golden/model_golden.py tiny
      tiny random models (one folder each: config.json, model.safetensors, expected.safetensors with
      `ids` and `logits`) and a PEFT adapter with its logits.
  python tools/golden/model_golden.py smollm2 SmolLM2-135M-Instruct.Q4_1.gguf
      smollm2.json: logits and greedy continuations of SmolLM2 with the GGUF's dequantised weights.

Needs: torch 2.11, transformers 5.23, peft 0.21, safetensors 0.8, gguf. fp32, CPU, 2 threads.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/model"

# Odd on purpose: head_dim is not hidden / heads, one key/value head, a vocabulary that no block size
# divides.
SIZES = dict(vocab_size=61, hidden_size=16, intermediate_size=22, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=128,
             bos_token_id=1, eos_token_id=2)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}

TINY = {
    "llama": (LlamaConfig(**SIZES, head_dim=6, rms_norm_eps=1e-5), torch.float32),
    "llama_tied_linear": (LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True,
                                      rope_parameters={"rope_type": "linear", "rope_theta": 10000.0,
                                                       "factor": 4.0}), torch.float16),
    "llama3": (LlamaConfig(**SIZES, head_dim=8, rope_parameters=LLAMA3), torch.bfloat16),
    "mistral_window": (MistralConfig(**SIZES, sliding_window=5), torch.bfloat16),
    "qwen2": (Qwen2Config(**SIZES), torch.bfloat16),
    "qwen2_layer_windows": (Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4,
                                        max_window_layers=1), torch.bfloat16),
    "qwen3": (Qwen3Config(**SIZES, head_dim=10, tie_word_embeddings=True), torch.bfloat16),
}


def randomize(model, dtype):
    """Values of the file's type, large enough that every part matters."""
    generator = torch.Generator().manual_seed(20260101)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                values = 0.3 * values + (1.0 if "norm" in name else 0.0)
            else:
                values = values / parameter.shape[1] ** 0.5 * (3 if "embed" in name else 1)
            parameter.copy_(values.to(dtype).float())


def random_ids(count, vocab, seed):
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed))


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids[None]).logits[0].float().contiguous()


def write_tiny():
    for name, (config, dtype) in TINY.items():
        folder = ROOT / name
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        randomize(model, dtype)
        ids = random_ids(24, config.vocab_size, 5)
        expected = {"ids": ids.to(torch.int32), "logits": logits_of(model, ids)}
        model.to(dtype).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file(expected, folder / "expected.safetensors")
    old_style(ROOT / "llama3/config.json", ROOT / "llama3/config_old_style.json")
    write_adapter()


def old_style(source, target):
    """The same config as transformers 4 wrote it."""
    config = json.loads(source.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    target.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_adapter():
    from peft import LoraConfig, get_peft_model
    folder = ROOT / "llama_adapter"
    model = AutoModelForCausalLM.from_pretrained(ROOT / "llama", dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    torch.manual_seed(3)
    peft = get_peft_model(model, LoraConfig(r=8, lora_alpha=12, target_modules="all-linear",
                                            base_model_name_or_path="llama")).eval()
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
    ids = random_ids(24, 61, 6)
    expected = {"ids": ids.to(torch.int32), "logits": logits_of(peft, ids)}
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "llama"
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(expected, folder / "expected.safetensors")


def load_smollm2(path):
    import gguf
    reader = gguf.GGUFReader(path)
    config = LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536,
                         num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                         max_position_embeddings=8192, rms_norm_eps=1e-5,
                         rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
                         tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
             "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{names[parts[2]]}.weight"
            heads = {"attn_q": 9, "attn_k": 3}.get(parts[2])
            if heads:  # adjacent pairs back to rotate-half order
                values = values.reshape(heads, 32, 2, 576).swapaxes(1, 2).reshape(-1, 576)
        else:
            name = {"token_embd": "model.embed_tokens.weight",
                    "output_norm": "model.norm.weight"}[parts[0]]
        state[name] = values.contiguous()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    return model


CHATS = [
    "What is the capital of France?", "Write a haiku about the sea.",
    "Explain photosynthesis to a child.", "List three prime numbers above 100.",
    "Translate 'good morning' into Spanish.", "What is 17 + 25?",
    "Who wrote Romeo and Juliet?", "Give me a recipe for pancakes.",
    "Why is the sky blue?", "Name the planets of the solar system.",
    "Write a Python function that reverses a string.", "What does HTTP 404 mean?",
    "Summarise: The cat sat on the mat. It was happy. Then it rained.",
    "How many legs does a spider have?", "Tell me a short joke.",
    "What is the boiling point of water in Fahrenheit?", "Describe a sunset in one sentence.",
    "What's the difference between a list and a tuple in Python?",
    "Write an email to my boss asking for a day off.", "What is machine learning?",
    "Correct this sentence: She go to school yesterday.", "Name a famous painting by Van Gogh.",
    "What are the primary colours?", "How do I boil an egg?",
    "Give me five words that rhyme with 'light'.", "Is a tomato a fruit or a vegetable?",
    "What year did the Second World War end?",
    "Caf\u00e9, na\u00efve, \u00fcber: what do these words share?",
    "Convert 5 kilometres to miles.", "What is the square root of 144?",
    "Explain recursion with an example.", "Write one line of dialogue for a pirate.",
]
TEXTS = ["The quick brown fox jumps over the lazy dog.", "def fibonacci(n):\n    if n < 2:\n",
         "In 1969, the first humans walked on the", "Hello"]


def write_smollm2(path):
    from transformers import AutoTokenizer
    path = pathlib.Path(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = load_smollm2(path)
    result = {"logits": [], "chats": []}
    for text in TEXTS:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
        last = logits_of(model, ids)[-1]
        top = last.topk(50)
        result["logits"].append({
            "text": text, "ids": ids.tolist(), "top_ids": top.indices.tolist(),
            "top_logits": [round(v, 6) for v in top.values.tolist()],
            "min": last.min().item(), "logsumexp": last.logsumexp(0).item(),
            # every 97th logit: a wrong row anywhere shows
            "sampled": [round(v, 6) for v in last[::97].tolist()]})
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for prompt in CHATS:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                             add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=48,
                                 do_sample=False, eos_token_id=end, pad_token_id=end)
        new = out[0, ids.shape[1]:].tolist()
        new = new[:-1] if new[-1] == end else new
        result["chats"].append({"prompt": prompt, "ids": ids[0].tolist(), "greedy": new,
                                "text": tokenizer.decode(new, skip_special_tokens=True)})
    (ROOT / "smollm2.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(2)
    write_tiny() if sys.argv[1] == "tiny" else write_smollm2(sys.argv[2])
