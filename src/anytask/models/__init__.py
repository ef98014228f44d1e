"""Backbones: small offline defaults, any ``torch.nn.Module``, or a Hugging Face checkpoint by name or folder."""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
