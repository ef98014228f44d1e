"""Language models: local Hugging Face weights, OpenAI-compatible endpoints, embeddings, simulated and tiny models."""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
