"""The groups of GKCL's settings."""

from __future__ import annotations

from typing import Any, Literal

from anytask.core.settings import Settings, choice, flag, free, real, whole


def _check_decoder(decoder: Any) -> None:
    if not callable(decoder) and not (isinstance(decoder, str) and decoder in ("mlp", "conv")):
        raise ValueError(f"decoder must be 'mlp', 'conv' or a callable, got {decoder!r}")


class KernelSettings(Settings):
    """The kernel on features.

    Parameters
    ----------
    name : {"linear", "polynomial", "rbf", "gaussian", "rff", "vrff"}
        ``a.b``; ``(a.b + 1)^3``; ``exp(-0.25 ||a - b||_1)`` (so named in the released KCL code); the Gaussian of width
        ``sigma``; its random Fourier features; variational random features, whose frequencies come from a network.
    n_features : int
        Random features L.
    sigma : float > 0
        Width of "gaussian" and "rff".
    normalize : {"l2", "minmax", "none"}
        Feature normalization. ``"minmax"`` scales by the extremes of the whole batch, as the released KCL code does:
        predictions then depend on the other queries of the call.
    tau_kl : float >= 0
        Weight of the divergence of variational random features (1e-4 in the KCL code).
    lambda_, gamma, beta : float
        What the three numbers of a new task start from.
    """

    name: str = choice("linear", ("linear", "polynomial", "rbf", "gaussian", "rff", "vrff"), "which kernel")
    n_features: int = whole(2048, "random features")
    sigma: float = real(1.0, "width of 'gaussian' and 'rff'", above=0)
    normalize: str = choice("l2", ("l2", "minmax", "none"), "feature normalization")
    tau_kl: float = real(1e-4, "weight of the divergence of variational random features", at_least=0)
    lambda_: float = real(0.1, "first value of a task's ridge", at_least=0)
    gamma: float = real(1.0, "first value of the factor of a task's scores")
    beta: float = real(0.0, "first value of the offset of a task's scores")


class SupportSettings(Settings):
    """The support sets.

    Parameters
    ----------
    source : {"generated", "stored"}
        Where they come from. Stored samples are a uniform draw from the distinct samples of their class.
    size : int
        Samples m in a support: 20 in the KCL code for digits, 100 for CIFAR.
    per : {"task", "class"}
        Whether ``size`` counts per task or per class.
    """

    source: str = choice("generated", ("generated", "stored"), "where supports come from")
    size: int = whole(20, "samples in a support")
    per: str = choice("task", ("task", "class"), "what size counts for")


class GeneratorSettings(Settings):
    """The conditional VAE, its warm-up and its replay.

    Parameters
    ----------
    latent_dim : int
        Width Z of the latent space; 100 is from memory of the paper, not checked.
    decoder : {"mlp", "conv"} or callable
        Decoder after its first layer (of width ``trunk_dim``): the trunk's widths mirrored, transposed convolutions for
        images, or ``decoder(width, shape) -> module``.
    likelihood : {"auto", "bernoulli", "gaussian"}
        Of inputs given z; ``"auto"`` takes Bernoulli when the first chunk lies in [0, 1].
    prior : {"class", "standard"}
        Learnable Gaussian per class, or N(0, I) shared by all (an ablation).
    label : {"concat", "gate"}
        How the label enters the decoder.
    replay, replay_weight, replay_cap
        Replay what the generator's frozen copy makes (False is an ablation), with weight ``w_r``, a number or
        ``"tasks"`` for the number of other tasks, which ``replay_cap`` limits.
    contrast, temperature : {"label", "component"}, float
        What counts as the same in ``L_con`` where a label belongs to several tasks: the label, or its component; and
        the temperature of that loss.
    warm_up : {"real", "vae", "none"}
        While the generator of the first task makes noise only: take half the batch as the support of the other half, or
        train the VAE alone.
    warm_up_steps, warm_up_error : int, float or None
        Length of the warm-up in mini-batches; end it earlier when the mean squared error per value falls below.
    """

    latent_dim: int = whole(100, "width of the latent space")
    decoder: Any = free("mlp", "'mlp', 'conv', or a callable (width, shape) -> module", _check_decoder)
    likelihood: Literal["auto", "bernoulli", "gaussian"] = choice(
        "auto", ("auto", "bernoulli", "gaussian"), "of inputs given z"
    )
    prior: Literal["class", "standard"] = choice("class", ("class", "standard"), "a Gaussian per class, or one for all")
    label: Literal["concat", "gate"] = choice("concat", ("concat", "gate"), "how the label enters the decoder")
    replay: bool = flag(True, "replay what the frozen copy of the generator makes")
    replay_weight: Any = real(1.0, "weight of the replay; 'tasks': the number of others", at_least=0, words=("tasks",))
    replay_cap: float | None = real(None, "limit of 'tasks'; None for no limit", above=0, optional=True)
    contrast: str = choice("label", ("label", "component"), "what counts as the same in L_con")
    temperature: float = real(0.1, "temperature of L_con", above=0)
    warm_up: str = choice("real", ("real", "vae", "none"), "the first steps of the first task")
    warm_up_steps: int = whole(100, "mini-batches of the warm-up", at_least=0)
    warm_up_error: float | None = real(
        None, "squared error per value that ends the warm-up; None for no such end", at_least=0, optional=True
    )
