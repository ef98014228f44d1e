"""Backbones: small offline defaults, any ``torch.nn.Module``, or a Hugging Face checkpoint by name or folder."""

from anytask.models.build import MLP, build_backbone

__all__ = ["MLP", "build_backbone"]
