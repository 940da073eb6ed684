"""The order in which evolora takes training rows, so that a peer trains on the same ones.

Mirrors trainers/row_order.cc and src/core/random.cc for rows without replay marks: SplitMix64,
Fisher-Yates, a seed an epoch. tests/trainers/training_golden_test.cc fails when the two differ.
"""

import hashlib
from collections.abc import Iterator

MASK = (1 << 64) - 1


class Random:
    """SplitMix64."""

    def __init__(self, seed: int) -> None:
        self._state = seed & MASK

    def next_u64(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """Uniform in [0, bound), without modulo bias."""
        first_fair = (1 << 64) % bound
        while (value := self.next_u64()) < first_fair:
            pass
        return value % bound

    def permutation(self, size: int) -> list[int]:
        order = list(range(size))
        for i in range(size, 1, -1):
            j = self.below(i)
            order[i - 1], order[j] = order[j], order[i - 1]
        return order


def derive_seed(seed: int, name: str) -> int:
    return int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:16], 16)


def step_rows(seed: int, num_rows: int, rows_per_step: int, epochs: int) -> Iterator[list[int]]:
    """The row numbers of each optimiser step of a run."""
    for epoch in range(epochs):
        order = Random(derive_seed(seed, f"epoch{epoch}")).permutation(num_rows)
        for begin in range(0, num_rows, rows_per_step):
            yield order[begin:begin + rows_per_step]
