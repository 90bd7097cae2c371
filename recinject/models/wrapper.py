"""What is put around a language model and stands in for it."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


class Wrapper(nn.Module):
    """A module around a language model; what it has no attribute for, it asks that model for."""

    backbone: PreTrainedModel | PeftModel

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "backbone":
                raise
            return getattr(self.backbone, name)

    @property
    def _keys_to_ignore_on_save(self) -> list[str]:
        # Checkpoints hold what trains: the Trainer warns of anything else that it misses.
        return [name for name in self.state_dict() if name not in self.trained_weights()]

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the weights that train, each once whatever names it has."""
        found = self.named_parameters()
        return {name: weight.detach() for name, weight in found if weight.requires_grad}
