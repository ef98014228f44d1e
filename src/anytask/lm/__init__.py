"""Language models: local Hugging Face weights, OpenAI-compatible endpoints, embeddings, simulated and tiny models."""

from anytask.core.lazy import lazy

_LAZY = {
    "ChatRequest": "protocol",
    "ChatReply": "protocol",
    "ChatModel": "protocol",
    "ScoringModel": "protocol",
    "OptionScore": "protocol",
    "Capabilities": "protocol",
    "LMError": "protocol",
    "MissingCapability": "protocol",
    "BudgetExceeded": "protocol",
    "ReplyError": "protocol",
    "LocalLM": "local",
    "Endpoint": "endpoint",
    "Budget": "accounts",
    "Accounts": "accounts",
    "ReplyCache": "cache",
    "Embedder": "embeddings",
    "VectorIndex": "search",
    "BM25Index": "search",
    "ScriptedModel": "doubles",
    "EchoModel": "doubles",
    "FaultyModel": "doubles",
    "SimulatedChat": "sim",
    "load_lm": "load",
    "load_tiny": "tiny_models",
    "TINY_MODELS": "tiny_models",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
