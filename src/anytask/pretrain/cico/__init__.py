"""CiCo: sequences and sentences are matched token by token, as two languages are (Cheng et al., 2023).

*Stage 1* (:class:`~anytask.pretrain.DomainEncoder`) makes features of raw sequences such as videos. A classifier of
windows that learned elsewhere labels the windows of which it is sure, and a copy of it is fine-tuned on them; both give
features, which are averaged. *Stage 2* (:class:`CiCo`) learns from sequences v_1..v_p of features and sentences
w_1..w_q, both through a tower and then of length 1, with ``E_ij = v_i . w_j``:

1. ``Z1 = (1/p) sum_i sum_j softmax_j(E_ij / t) E_ij``: each vector picks its words, and
   ``Z2 = (1/q) sum_j sum_i softmax_i(E_ij / t) E_ij``: each word picks its vectors. No order is looked at;
2. both, times a learned scale, are compared with the others of the batch by cross-entropy, in rows and columns:
   ``L1 = mu CE(Z1) + (1 - mu) CE(Z1')``, ``L2 = mu CE(Z2') + (1 - mu) CE(Z2)``, and the loss is their mean;
3. Z1 is of the clean sentence, Z2 of one whose words were changed a little;
4. what fits is ranked by ``mu Z1 + (1 - mu) Z2``.

Departures from the paper
-------------------------
* The towers are small unless CLIP's are named: a table of words, and a transformer of two layers. CLIP's image tower
  gets positions of its own, as its table is one of patches, fewer than the vectors that are read.
* Padding takes no part in a softmax. The released code leaves it in and drops it afterwards: ``official_padding``, with
  vectors of 0 where that code has what its towers make of padding.
* Long sentences are thinned by words, not by subwords. AdamW, with its bias correction, stands for BertAdam.
* Equal sentences are one sentence with several sequences. The released code counts them as wrong where their names
  differ: ``repeats="negative"``.
* A window joins the segment whose start is nearest; in the released code it joins whichever was made last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.rng import derive
from anytask.core.settings import choice, flag, free, real, whole
from anytask.parts.contrastive import contrastive_loss, late_interaction_scores
from anytask.pretrain.cico.domain import DomainEncoder
from anytask.pretrain.parts.item_towers import encoder_field, item_tower
from anytask.pretrain.parts.items import Pairs, ranked
from anytask.pretrain.parts.pairs import PairBatch, PairEncoder, Sides
from anytask.pretrain.parts.retrieval import group_max, retrieval_metrics
from anytask.pretrain.parts.rewording import WAYS, reworded
from anytask.pretrain.parts.sequence_towers import (
    ClipSequenceTower,
    ClipTextTower,
    SequenceTransformer,
    Thinned,
    spread,
)

__all__ = ["CiCo", "DomainEncoder"]


def _check_synonyms(value: Any) -> None:
    if value is not None and not (
        isinstance(value, Mapping)
        and all(isinstance(w, str) and isinstance(s, (list, tuple)) and s and all(isinstance(x, str) for x in s)
                for w, s in value.items())
    ):  # fmt: skip
        raise ValueError(f"synonyms must map words to lists of words, got {value!r:.80}")


@dataclass(frozen=True)
class Alignment:
    """Which vectors of a sequence and which words of a sentence belong together.

    Attributes
    ----------
    places : int array of shape (p,)
        Places of the vectors that were read, in the sequence.
    words : list of q str
    cosines : array of shape (p, q)
    of_vectors : array of shape (p, q)
        How each vector divides itself among the words; rows sum to 1.
    of_words : array of shape (p, q)
        How each word divides itself among the vectors; columns sum to 1.
    """

    places: np.ndarray
    words: list[str]
    cosines: np.ndarray
    of_vectors: np.ndarray
    of_words: np.ndarray


class CiCo(PairEncoder):
    """Retrieval between sequences of vectors and sentences, by what vectors and words have in common.

    Pick it where parts of a sequence say what words say, in another order: signing, gestures, machine logs. Long
    sequences and sentences are thinned evenly.

    Parameters
    ----------
    sequence_encoder : None, str, path or torch.nn.Module
        None for a transformer of ``layers`` layers; CLIP's image tower by name or folder; or a module that maps vectors
        (n, t, d) and their mask (n, t) to tokens and mask.
    sentence_encoder : None, str, path or torch.nn.Module
        None for a table of words; CLIP's text tower by name or folder, wherever ``sequence_encoder`` names one; another
        text model ("minilm"); or a module that maps texts to tokens and mask.
    width, hidden : int, default 64
        Width of a token, and of the layers of the small sequence tower.
    layers, heads : int, default 2 and 4
        Of the small sequence tower; without layers each vector goes through a small network by itself.
    max_vectors, max_words : int, default 64 and 32
        What is read of a sequence and of a sentence.
    temperature : float, default 0.07
        Of the softmax that picks words and vectors.
    mix : float in [0, 1], default 0.5
        mu: the weight of Z1 in the score, and of the first direction in the loss.
    scale : float in (0, 100], default 10
        What scores are multiplied with at first; it is learned, up to 100.
    repeats : {"one", "mask", "negative"}, default "one"
        Where a sentence has several sequences, an epoch shows one, drawn anew; or all, with those of the same sentence
        left out of the comparison in a batch, or counted as wrong.
    augment : {"swap", "delete", "synonyms", "none"}, default "swap"
        How sentences are changed for Z2. A table of words does not notice a swap.
    augment_share : float in [0, 1], default 0.5
        Share of the sentences that are changed.
    synonyms : mapping of str to list of str, optional
        By the word in lower case.
    official_padding : bool, default False
        Let padding up to ``max_vectors`` and ``max_words`` take part in the softmax.
    lr, weight_decay, warmup, epochs, batch_size, max_grad_norm, precision, seed, device
        See :class:`~anytask.pretrain.parts.pairs.PairEncoder`; after the warm-up the rate falls as a cosine.

    Examples
    --------
    Two signs in any order, and a sentence that names them in another:

    >>> rng = np.random.default_rng(0)
    >>> signs, names = 2 * rng.normal(size=(12, 8)), [f"w{i}" for i in range(12)]
    >>> said = [rng.permutation(12)[:2] for _ in range(200)]
    >>> sequences = [signs[s] + 0.3 * rng.normal(size=(2, 8)) for s in said]
    >>> model = CiCo.from_preset("small", epochs=15).fit(sequences, [f"{names[b]} {names[a]}" for a, b in said])
    >>> model.rank([signs[[3, 7]]], ["w3 w5", "w9 w7", "w7 w3"])[0][0, 0].item()
    2
    >>> found = model.alignment(signs[[3, 7]], "w7 w3")
    >>> [found.words[i] for i in found.of_vectors.argmax(1)]
    ['w3', 'w7']

    References
    ----------
    Cheng, Wei, Bao, Chen, Zhang, 2023, "CiCo: Domain-Aware Sign Language Retrieval via Cross-Lingual Contrastive
    Learning", CVPR, arXiv:2303.12793.
    """

    KINDS: ClassVar[tuple[str, str]] = ("sequences", "texts")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 32, "layers": 0, "lr": 5e-3, "epochs": 60, "batch_size": 32},
        "paper": {
            "sequence_encoder": "openai/clip-vit-base-patch32", "sentence_encoder": "openai/clip-vit-base-patch32",
            "width": 512, "lr": 1e-5, "epochs": 200, "batch_size": 512, "scale": 100.0, "precision": "bfloat16",
        },
    }  # fmt: skip

    sequence_encoder: Any = encoder_field("of sequences; None: a small transformer")
    sentence_encoder: Any = encoder_field("of sentences; None: a table of words")
    width: int = whole(64, "width of a token")
    hidden: int = whole(64, "width of the layers of the small sequence tower")
    layers: int = whole(2, "layers of the small sequence tower; 0: each vector by itself", at_least=0)
    heads: int = whole(4, "heads of these")
    max_vectors: int = whole(64, "vectors of a sequence that are read")
    max_words: int = whole(32, "words of a sentence that are read")
    temperature: float = real(0.07, "temperature of the softmax that picks words and vectors", above=0)
    mix: float = real(0.5, "mu: weight of the vectors' score", at_least=0, at_most=1)
    scale: float = real(10.0, "what scores are multiplied with at first", above=0, at_most=100)
    repeats: str = choice("one", ("one", "mask", "negative"), "several sequences of a sentence in an epoch and a batch")
    augment: str = choice("swap", WAYS, "how sentences are changed for the words' score")
    augment_share: float = real(0.5, "share of the sentences that are changed", at_least=0, at_most=1)
    synonyms: Any = free(None, "synonyms by the word in lower case", _check_synonyms)
    official_padding: bool = flag(False, "let padding take part in the softmax, as the released code does")
    weight_decay = 1e-3
    max_grad_norm = 1.0

    net_: ScaledSides

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.augment == "synonyms" and not self.synonyms:
            raise ValueError("augment='synonyms' needs synonyms, by the word in lower case")
        if self.sequence_encoder is None and self.layers and self.hidden % self.heads:
            raise ValueError(f"hidden must be a multiple of heads, got {self.hidden} and {self.heads}")

    # -- what users call beside the protocol ------------------------------------------------------------------------

    def rank(
        self, queries: Any, targets: Any, *, k: int | None = None, side: str = "left", groups: ArrayLike | None = None
    ) -> Any:
        """Return the places of the targets that fit each query, the best first, and their scores.

        Parameters
        ----------
        queries, targets, k, side
            See :meth:`~anytask.pretrain.parts.pairs.PairEncoder.rank`.
        groups : int array of shape (n_targets,), optional
            The group that each target is of, from 0 on, such as the sequences of one sentence. Groups are ranked by
            their best target, and places are those of groups.
        """
        if groups is None:
            return super().rank(queries, targets, k=k, side=side)
        S = self.rank(queries, targets, side=side)
        scores = np.empty_like(S[1])
        np.put_along_axis(scores, S[0], S[1], axis=1)
        return ranked(group_max(scores, groups), k)

    def evaluate(self, sequences: Any, sentences: Any) -> dict[str, dict[str, float]]:
        """Return how well aligned sequences and sentences are retrieved from each other.

        Parameters
        ----------
        sequences, sentences : as in :meth:`fit`
            Equal sentences are one, and its score is that of its best sequence.

        Returns
        -------
        dict
            Under ``to_sentence`` and ``to_sequence`` what :func:`~anytask.pretrain.parts.retrieval.retrieval_metrics`
            returns: R@1, R@5, R@10, MedR and MeanR.
        """
        S = self.scores(sequences, sentences)  # (n, n)
        first, group = self._read_side(sentences, "right", "sentences").alike().unique(return_inverse=True)
        S, right = S[:, first.numpy()], group.numpy()
        grouped = group_max(S.T, right)  # (m, m)
        return {
            "to_sentence": retrieval_metrics(S, np.eye(len(first), dtype=bool)[right]),
            "to_sequence": retrieval_metrics(grouped, np.eye(len(first), dtype=bool)),
        }

    def alignment(self, sequence: Any, sentence: str) -> Alignment:
        """Return which vectors of a sequence (t, d) and which words of a sentence belong together."""
        v, w = (
            F.normalize(self._tokens([item], side).tokens, dim=1)
            for item, side in ((sequence, "left"), (sentence, "right"))
        )
        E = v @ w.T  # (p, q)
        names = self.net_.right.names(sentence)
        return Alignment(
            spread(torch.tensor([len(sequence)]), len(v))[0].numpy(),
            names if len(names) == len(w) else [str(j) for j in range(len(w))],
            E.double().numpy(),
            (E / self.temperature).softmax(1).double().numpy(),
            (E / self.temperature).softmax(0).double().numpy(),
        )

    # -- the method -------------------------------------------------------------------------------------------------

    def _network(self) -> ScaledSides:
        facts, encoder = self.facts_["left"], self.sequence_encoder
        (d,) = facts["shape"]
        if encoder is None and self.layers:
            sequences: nn.Module = SequenceTransformer(
                d, self.width, hidden=self.hidden, layers=self.layers, heads=self.heads, limit=self.max_vectors
            )
        elif encoder is None or isinstance(encoder, nn.Module):
            sequences = item_tower(facts, encoder, width=self.width, hidden=self.hidden)
        else:
            sequences = ClipSequenceTower(facts.get("files", encoder), d, self.max_vectors)
            facts["files"] = sequences.files
        net = ScaledSides(Thinned(sequences, self.max_vectors), Thinned(self._sentence_tower(), self.max_words))
        net.log_scale.data.fill_(math.log(self.scale))
        return net

    def _sentence_tower(self) -> nn.Module:
        facts, encoder = self.facts_["right"], self.sentence_encoder
        if encoder is None or isinstance(encoder, nn.Module) or encoder != self.sequence_encoder:
            return item_tower(
                facts, encoder, width=self.width, linked=True, max_tokens=self.max_words,
                seed=derive(self.seed, "right"),
            )  # fmt: skip
        tower = ClipTextTower(facts.get("files", encoder), self.max_words)
        facts["files"] = tower.files
        return tower

    def _score(self, a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
        v, w = F.normalize(a, dim=2), F.normalize(b, dim=2)
        Z1 = self._directed(v, w, mask_a, mask_b, self.max_words)
        Z2 = self._directed(w, v, mask_b, mask_a, self.max_vectors).T
        return self.mix * Z1 + (1 - self.mix) * Z2

    def _directed(self, a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor, limit: int) -> Tensor:
        """Return the scores (n, m) of tokens a (n, p, d) that pick among tokens b (m, q, d), all of length 1."""
        if not self.official_padding:
            return late_interaction_scores(a, b, mask_a, mask_b, temperature=self.temperature)
        b = F.pad(b * mask_b[..., None], (0, 0, 0, max(0, limit - b.shape[1])))
        return late_interaction_scores(a, b, mask_a, temperature=self.temperature)

    def _loss(self, batch: PairBatch) -> Tensor:
        a, b, mask_a, mask_b = self._batch_tokens(batch)
        c, mask_c = b, mask_b
        if self.augment != "none" and self.augment_share:
            c, mask_c = self.net_.right([self._changed(text) for text in batch.pairs.right.taken(batch.columns)])
        rows, columns = batch.drawn.T
        with torch.autocast(self._device.type, enabled=False):
            v, w, w_changed = (F.normalize(x.float(), dim=2) for x in (a, b, c))
            Z1 = self._directed(v, w, mask_a, mask_b, self.max_words)[rows][:, columns]
            Z2 = self._directed(w_changed, v, mask_c, mask_a, self.max_vectors).T[rows][:, columns]
            scale = self.net_.log_scale.exp()
            same = batch.positive[rows][:, columns] if self.repeats != "negative" else None
            return matching_loss(scale * Z1, scale * Z2, self.mix, same)

    def _changed(self, text: str) -> str:
        if float(torch.rand(())) >= self.augment_share:
            return text
        return reworded(text, self.augment, synonyms=self.synonyms)

    def _edges(self, pairs: Pairs) -> Tensor:
        if self.repeats != "one":
            return pairs.edges
        order = pairs.edges[torch.randperm(len(pairs.edges))]
        order = order[order[:, 1].argsort(stable=True)]
        return order[torch.cat([torch.tensor([True]), order[1:, 1] != order[:-1, 1]])]

    def _rate(self, step: int, steps: int) -> float:
        return super()._rate(step, steps) * 0.5 * (1 + math.cos(math.pi * step / steps))

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.net_.parameters(), self.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=self.weight_decay
        )

    def _after_step(self) -> Callable[[int], object]:
        return lambda step: self.net_.log_scale.data.clamp_(max=math.log(100))


class ScaledSides(Sides):
    """Towers with a scale of the scores that is learned."""

    left: Thinned
    right: Thinned

    def __init__(self, left: Thinned, right: Thinned) -> None:
        super().__init__(left, right)
        self.log_scale = nn.Parameter(torch.zeros(()))


def matching_loss(Z1: Tensor, Z2: Tensor, mix: float, same: Tensor | None = None) -> Tensor:
    """Return the loss of scaled scores, in which row i belongs with column i.

    Parameters
    ----------
    Z1, Z2 : Tensor of shape (b, b)
        Of sequences that pick words, and of words that pick vectors; rows are sequences.
    mix : float
        Weight of the queries' direction of each.
    same : bool Tensor of shape (b, b), optional
        What belongs together besides, and is left out of the comparison.
    """
    right = torch.eye(len(Z1), dtype=torch.bool, device=Z1.device)
    candidates = None if same is None else ~same | right

    def ce(Z: Tensor, candidates: Tensor | None) -> Tensor:
        return contrastive_loss(Z, right, candidates=candidates)

    turned = None if candidates is None else candidates.T
    L1 = mix * ce(Z1, candidates) + (1 - mix) * ce(Z1.T, turned)
    L2 = mix * ce(Z2.T, turned) + (1 - mix) * ce(Z2, candidates)
    return (L1 + L2) / 2
