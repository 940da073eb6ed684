"""evolora's dropout inside PEFT, so that both train with the same masks.

Mirrors trainers/adapter_dropout.cc: a mask is a function of the seed, the step, the module, the row of
the data, how often that row stood in the step before, the position and the feature.
"""

import collections
import pathlib
import sys

import numpy
import torch
from peft.tuners.lora import LoraLayer

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "bench/peers"))
from row_order import derive_seed  # noqa: E402

GAMMA = numpy.uint64(0x9E3779B97F4A7C15)
PREFIX = "base_model.model."


def mixed(z: numpy.ndarray) -> numpy.ndarray:
    """SplitMix64 of counters."""
    with numpy.errstate(over="ignore"):
        z = z + GAMMA
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return z ^ (z >> numpy.uint64(31))


def token_key(step: int, row: int, copy: int, position: int) -> numpy.ndarray:
    key = numpy.zeros(1, numpy.uint64)
    for part in (step, row, copy, position):
        key = mixed(key ^ numpy.uint64(part))
    return key


class CounterDropout(torch.nn.Module):
    """Takes the place of one adapted layer's lora_dropout."""

    def __init__(self, module: str, rate: float, seed: int) -> None:
        super().__init__()
        self._key = numpy.uint64(derive_seed(derive_seed(seed, "dropout"), module))
        self._rate = rate
        self.token_keys = numpy.zeros((0, 0), numpy.uint64)  # [B, T] of the next batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        with numpy.errstate(over="ignore"):
            words = numpy.arange((width + 1) // 2, dtype=numpy.uint64) * GAMMA
            bits = mixed(mixed(self._key ^ self.token_keys)[..., None] + words)
        halves = numpy.stack([bits & numpy.uint64(0xFFFFFFFF), bits >> numpy.uint64(32)], -1)
        halves = halves.reshape(*bits.shape[:-1], -1)[..., :width]
        kept = torch.from_numpy(halves >= numpy.uint64(round(self._rate * 2**32)))
        return torch.where(kept, x * (1 / (1 - self._rate)), torch.zeros(()))


class Masks:
    """The dropout of a whole model."""

    def __init__(self, model: torch.nn.Module, rate: float, seed: int) -> None:
        self._layers = []
        self._step = 0
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer):
                self._layers.append(CounterDropout(name.removeprefix(PREFIX), rate, seed))
                layer.lora_dropout["default"] = self._layers[-1]

    def next_step(self, rows: list[int], longest: int) -> None:
        """Draws for the next step's batch, padded on the right to `longest` tokens."""
        copies: collections.Counter[int] = collections.Counter()
        keys = []
        for row in rows:
            keys.append([token_key(self._step, row, copies[row], t)[0] for t in range(longest)])
            copies[row] += 1
        for layer in self._layers:
            layer.token_keys = numpy.array(keys)
        self._step += 1
