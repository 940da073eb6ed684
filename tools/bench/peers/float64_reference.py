"""The reference run in float64: what fp32 rounds of it shows in how far an fp32 run is from here.

The fp32 values of the base and of the adapter's start are widened; transformers casts norms and
logits to fp32 whatever the model's type, so both formulas stand here again. RoPE's tables stay fp32
values, as everybody's.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

from peft_reference import IGNORE, PeftReference


def rms_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * (x * scale)


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """`model` in float64. From here on every Llama model of the process has float64's norm."""
    modeling_llama.LlamaRMSNorm.forward = rms_norm
    return model.to(torch.float64)


class Float64Reference(PeftReference):
    """Takes a widened model."""

    def _loss(self, inputs: dict[str, Any]) -> torch.Tensor:
        labels, count = inputs.pop("labels"), inputs.pop("num_items_in_batch")
        logits = self.model(**inputs).logits
        if logits.dtype != torch.float64:
            raise TypeError(f"logits are {logits.dtype}")
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE,
            reduction="sum") / count
