"""What is measured: models, rows and lengths of each case. Only data and arithmetic."""

import dataclasses
import random
from typing import Any

SMOLLM2 = "smollm2"
IGNORE = -100
RANK = 16
Row = dict[str, list[int]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama shape; its weights are random but for SmolLM2's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    tie_word_embeddings: bool = True

    def kv_width(self) -> int:
        """Outputs of k_proj and of v_proj."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads

    def linear_weights(self) -> int:
        """Weights of the decoder's linear layers."""
        width, kv = self.hidden_size, self.kv_width()
        layer = 2 * width * width + 2 * width * kv + 3 * width * self.intermediate_size
        return self.num_hidden_layers * layer

    def head_weights(self) -> int:
        return self.vocab_size * self.hidden_size


SHAPES = {
    SMOLLM2: Shape(49152, 576, 1536, 30, 9, 3, 8192),
    "15m": Shape(32000, 288, 768, 6, 6, 6, 512),
    "3m": Shape(4096, 192, 512, 6, 6, 6, 512),
    "260k": Shape(512, 64, 172, 5, 8, 4, 512),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of random ids that begin with one shared prefix and are labelled at their end."""

    count: int
    length: int
    labelled: int
    shared: int = 0

    def make(self, vocab_size: int) -> list[Row]:
        draw = random.Random(1)
        prefix = [draw.randrange(vocab_size) for _ in range(self.shared)]
        return [self._row(prefix, draw, vocab_size) for _ in range(self.count)]

    def _row(self, prefix: list[int], draw: random.Random, vocab_size: int) -> Row:
        ids = prefix + [draw.randrange(vocab_size) for _ in range(self.length - self.shared)]
        unlabelled = self.length - self.labelled
        return {"ids": ids, "labels": [IGNORE] * unlabelled + ids[unlabelled:]}


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table. `kind` says what runs and what is counted; see run.py."""

    name: str
    title: str
    kind: str  # train, adapters, job, start, generate or parity
    model: str
    rows: Rows | None
    rows_per_step: int = 1  # train: of an optimiser step; generate: of a batch
    warm_up_steps: int = 0
    steps: int = 0  # train: measured in one repeat
    new_tokens: int = 0
    peers: tuple[str, ...] = ("peft",)
    our_options: tuple[str, ...] = ()
    rank: int = RANK
    adapters: int = 1  # trained in one step; a row of each step belongs to each

    @property
    def unit(self) -> str:
        return "s" if self.kind in ("job", "start") else "tok/s"

    def recipe(self) -> dict[str, Any]:
        """The recipe file, with evolora's keys, which PEFT's side reads too."""
        recipe = {"rank": self.rank, "alpha": 2 * self.rank, "seed": 1,
                  "rows_per_step": self.rows_per_step,
                  "require_end_of_turn": False}  # rows of random ids
        narrowest = SHAPES[self.model].kv_width()
        if self.rank > narrowest:  # a rank may not exceed its layer
            recipe["rank_pattern"] = {"k_proj": narrowest, "v_proj": narrowest}
        if self.kind == "job":
            return recipe | {"epochs": JOB_EPOCHS}
        if self.kind == "parity":  # 150 rows: 50 steps
            return recipe | {"epochs": 1, "warmup_ratio": 0.1}
        if self.kind == "start":
            return recipe | {"epochs": JOB_EPOCHS, "max_steps": 1}
        return recipe | {"schedule": "constant", "epochs": 1000,
                         "max_steps": self.warm_up_steps + self.steps}

    def flops_per_unit(self) -> float:
        """Of the GEMMs with the base's weights that one counted token needs; 0 for durations.

        Training: forward and the gradient of the activations, the head for labelled tokens only.
        """
        shape = SHAPES[self.model]
        if self.kind in ("train", "adapters") and self.rows:
            share = self.rows.labelled / self.rows.length
            return 4.0 * (shape.linear_weights() + share * shape.head_weights())
        if self.kind == "generate":
            return 2.0 * shape.linear_weights() + 2.0 * shape.head_weights() * (self.new_tokens > 1)
        return 0.0


CHAT64 = Rows(count=64, length=38, labelled=5, shared=17)
CHATS = None  # the chats of tests/golden/model/smollm2.json
JOB_EPOCHS = 8
ONE_ADAPTER = "evolora, one adapter on all 8 rows"
LLM_PEERS = ("transformers", "llama.cpp Q4_1")

CASES = {case.name: case for case in (
    Case("dense", "LoRA SmolLM2-135M, 2 x 256 tokens, half labelled", "train", SMOLLM2,
         Rows(8, 256, 128), rows_per_step=2, warm_up_steps=1, steps=3),
    Case("chat64", "LoRA SmolLM2-135M, chat rows of 38 tokens, 17 shared, 5 labelled, batch 8",
         "train", SMOLLM2, CHAT64, rows_per_step=8, warm_up_steps=2, steps=8),
    Case("job", "that as a command: start, load, 8 epochs of 64 rows, save", "job", SMOLLM2, CHAT64,
         rows_per_step=8),
    Case("15m", "LoRA 15M (288 wide, 6 layers, 32k vocabulary), 4 x 256", "train", "15m",
         Rows(32, 256, 256), rows_per_step=4, warm_up_steps=3, steps=10),
    Case("3m", "LoRA 3M (192 wide, 6 layers, 4k vocabulary), 8 x 128", "train", "3m",
         Rows(64, 128, 128), rows_per_step=8, warm_up_steps=5, steps=25),
    Case("260k", "LoRA 0.26M (64 wide, 5 layers, 512 vocabulary), 8 x 128", "train", "260k",
         Rows(64, 128, 128), rows_per_step=8, warm_up_steps=10, steps=60),
    Case("gen16", "generation SmolLM2-135M, 16 chats, 64 new tokens, greedy, fp32", "generate",
         SMOLLM2, CHATS, rows_per_step=16, new_tokens=64, peers=("transformers",)),
    Case("genagent", "the same, prompts of 438 tokens on one 400-token prefix", "generate",
         SMOLLM2, Rows(64, 438, 1, shared=400), rows_per_step=16, new_tokens=64,
         peers=("transformers",)),
    Case("gen1", "generation SmolLM2-135M, 1 chat, 64 new tokens, greedy, ours int8", "generate",
         SMOLLM2, CHATS, rows_per_step=1, new_tokens=64, peers=LLM_PEERS,
         our_options=("--weights", "int8")),
    Case("prefill", "prefill SmolLM2-135M, 512 tokens", "generate", SMOLLM2, Rows(12, 512, 1),
         rows_per_step=1, new_tokens=1, peers=LLM_PEERS),
    Case("start", "start of the process to the first optimiser step, SmolLM2-135M", "start",
         SMOLLM2, CHAT64, rows_per_step=8),
    Case("agent", "LoRA SmolLM2-135M, 32 rows on one 400-token prefix, 40-token tails, 20 "
         "labelled, batch 8", "train", SMOLLM2, Rows(32, 440, 20, shared=400), rows_per_step=8,
         warm_up_steps=1, steps=1),
    Case("adapters8", "8 adapters of rank 16 on SmolLM2-135M in one step, each on a row of 128 "
         "tokens of its own, half labelled", "adapters", SMOLLM2, Rows(8, 128, 64), rows_per_step=8,
         warm_up_steps=1, steps=4, peers=(ONE_ADAPTER,), adapters=8),
)}
PARITY = Case("parity", "50 steps beside PEFT", "parity", SMOLLM2, CHATS, rows_per_step=3)
