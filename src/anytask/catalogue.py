"""The catalogue: one card for each of the 77 systems, so that one can ask what exists for a problem.

The cards are facts about papers (title, year, arXiv identifier) and about this package (family, public class, extra,
problems). Whether a system can be used yet is computed from the package itself by :func:`state`, and never typed in.
Reading the catalogue imports no array or tensor library.

Examples
--------
What exists for a stream of tasks whose borders nobody announces?

>>> [card.key for card in search(problem="task-stream") if card.sees == "none"]
['tame', 'migu']
>>> get("tame").title
'TAME: Task Agnostic Continual Learning using Multiple Experts'
>>> get("tme")
Traceback (most recent call last):
    ...
anytask.catalogue.UnknownSystem: unknown system 'tme'; did you mean 'tame'?
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, fields
from typing import Any, Literal

from anytask.core.discovery import published

__all__ = ["FAMILIES", "PROBLEMS", "SYSTEMS", "Card", "UnknownSystem", "as_dict", "get", "load", "search", "state"]


@dataclass(frozen=True, slots=True)
class Card:
    """What the catalogue knows of one system.

    Attributes
    ----------
    number : int
        Place in the catalogue, 0-76.
    key : str
        Short name in lower case, as the command line takes it.
    title : str
        Full title of the paper.
    name : str
        Short name of the system, as the paper spells it.
    year : int
        Year in which the paper first appeared, which may be earlier than its conference.
    arxiv : str or None
        arXiv identifier; None where none is recorded.
    family : str
        Package of the systems that share one protocol, one of :data:`FAMILIES`.
    entry : str
        Where the public class lives, ``"package:Class"``.
    extra : str or None
        The optional dependencies it needs, as in ``pip install 'anytask[text]'``; None when the plain package will do.
    problems : tuple of str
        Kinds of problems it answers, out of :data:`PROBLEMS`.
    use : str
        What a user gets, and when to pick it.
    sees : {"none", "boundary", "train", "test"}
        The most it may see of the task. "none": nothing says which task an example is from; "boundary": in training,
        that a task ends and the next begins; "train": the examples of the task, told apart from those of others, to
        train on or to condition on; "test": also which task a query is from, by id, name, instruction or candidates.
    """

    number: int
    key: str
    title: str
    name: str
    year: int
    arxiv: str | None
    family: str
    entry: str
    extra: str | None
    problems: tuple[str, ...]
    use: str
    sees: str


class UnknownSystem(KeyError):
    """No system has this key. The message names the keys that look like it.

    Examples
    --------
    >>> str(UnknownSystem("LLMLingua-2"))
    "unknown system 'LLMLingua-2'; did you mean 'llmlingua2'?"
    """

    def __str__(self) -> str:
        wanted = self.args[0]
        keys = {spelling: card.key for card in SYSTEMS for spelling in (card.key, card.name.lower())}
        close = dict.fromkeys(keys[match] for match in difflib.get_close_matches(str(wanted).lower(), keys))
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`anytask list` shows them all"
        return f"unknown system {wanted!r}; {hint}"


# One card: number, key, title,
#           name, year, arxiv, family, entry, extra, problems,
#           use,
#           sees.
# fmt: off
SYSTEMS: tuple[Card, ...] = (
    Card(0, "tame", "TAME: Task Agnostic Continual Learning using Multiple Experts",
         "TAME", 2022, "2210.03869", "continual", "anytask.continual:TAME", None, ("task-stream",),
         "Finds task borders by itself from the loss and keeps one expert per task; for streams that nobody announces.",
         "none"),
    Card(1, "isocvgae",
         "Isomorphic-Consistent Variational Graph Auto-Encoders for Multi-Level Graph Representation Learning",
         "IsoC-VGAE", 2023, "2312.05519", "pretrain", "anytask.pretrain:IsoCVGAE", "graphs", ("frozen-features",),
         "Label-free vectors of nodes and graphs; for tasks where one-hop graph auto-encoders fall short.",
         "none"),
    Card(2, "tart", "TART: A plug-and-play Transformer module for task-agnostic reasoning",
         "TART", 2023, "2306.07536", "incontext", "anytask.incontext:TART", "text",
         ("few-shot-text", "in-context-learning"),
         "Turns a frozen encoder and K labelled examples into a binary classifier; no training on your data.",
         "train"),
    Card(3, "mtlora", "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning",
         "MTLoRA", 2024, "2403.20320", "multitask", "anytask.multitask:MTLoRA", None, ("multi-task-training",),
         "Adapts one frozen backbone to T tasks with low-rank modules; when all predictions must come from one pass.",
         "test"),
    Card(4, "llmlingua2",
         "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt Compression",
         "LLMLingua-2", 2024, "2403.12968", "prompts", "anytask.prompts:LLMLingua2", "text",
         ("few-shot-text", "prompt-compression"),
         "Shortens prompts 2-5x by deleting words, never rewriting; when tokens cost and the question isn't known yet.",
         "none"),
    Card(5, "uwe", "Unified Work Embeddings: Contrastive Learning of a Bidirectional Multi-task Ranker",
         "UWE", 2025, "2511.07969", "pretrain", "anytask.pretrain:UWE", "text", ("paired-retrieval",),
         "One text encoder that ranks any label space, trained on several relation graphs; for zero-shot matching.",
         "train"),
    Card(6, "nero", "Evaluating Machine Learning Models with NERO: Non-Equivariance Revealed on Orbits",
         "NERO", 2023, "2305.19889", "evaluate", "anytask.evaluate:NERO", None, ("equivariance",),
         "Shows how the error varies as inputs are rotated, shifted or flipped; for any model, and without labels too.",
         "none"),
    Card(7, "galactic",
         "Galactic: Scaling End-to-End Reinforcement Learning for Rearrangement at 100k Steps-Per-Second",
         "Galactic", 2023, "2306.07552", "control", "anytask.control:Galactic", "control", ("rearrangement",),
         "One recurrent policy for mobile pick-and-place from thousands of batched worlds; when simulation is slow.",
         "none"),
    Card(8, "demrag", "Meta-training with Demonstration Retrieval for Efficient Few-shot Learning",
         "demRAG", 2023, "2307.00119", "incontext", "anytask.incontext:DemRAG", "text",
         ("few-shot-text", "demonstration-selection"),
         "A small generator that retrieves labelled examples from a multi-task bank; for few labels and one GPU.",
         "test"),
    Card(9, "evosyn", "EvoSyn: Generalizable Evolutionary Data Synthesis for Verifiable Learning",
         "EvoSyn", 2025, "2510.17928", "synthesis", "anytask.synthesis:EvoSyn", "synthesis",
         ("data-synthesis", "code-generation"),
         "Grows seed problems into tested ones by a filter that evolves; when solutions can be executed.",
         "train"),
    Card(10, "rlot", "RL of Thoughts: Navigating LLM Reasoning with Inference-time Reinforcement Learning",
         "RLoT", 2025, "2505.14140", "agents", "anytask.agents:RLoT", "agents", ("multi-step-reasoning",),
         "A tiny navigator picks the next reasoning step of a frozen model; reuse it across models and subjects.",
         "none"),
    Card(11, "point-prc",
         "Point-PRC: A Prompt Learning Based Regulation Framework for Generalizable Point Cloud Analysis",
         "Point-PRC", 2024, "2410.20406", "robust", "anytask.robust:PointPRC", "text",
         ("few-labels", "distribution-shift"),
         "Few-shot prompt tuning of a frozen two-tower model that stays good on classes and domains it never tuned on.",
         "test"),
    Card(12, "madeleine", "Multistain Pretraining for Slide Representation Learning in Pathology",
         "MADELEINE", 2024, "2408.02859", "pretrain", "anytask.pretrain:MADELEINE", None, ("frozen-features",),
         "One vector per bag of patches, aligned over several views of a case; for slides or any multi-view sets.",
         "none"),
    Card(13, "clr", "CLR: Channel-wise Lightweight Reprogramming for Continual Learning",
         "CLR", 2023, "2307.11386", "continual", "anytask.continual:CLR", None, ("task-stream",),
         "Re-interprets one frozen CNN per task with tiny channel filters; no forgetting, when task ids are known.",
         "test"),
    Card(14, "scold", "A Vision-Language Foundation Model for Leaf Disease Identification",
         "SCOLD", 2025, "2505.07019", "pretrain", "anytask.pretrain:SCOLD", "text",
         ("paired-retrieval", "zero-shot-classification"),
         "Image-caption encoder with soft targets; when many captions describe the same concept.",
         "none"),
    Card(15, "intact",
         "INTACT: Inducing Noise Tolerance through Adversarial Curriculum Training for LiDAR-based Safety-Critical "
         "Perception and Autonomy",
         "INTACT", 2025, "2502.01896", "robust", "anytask.robust:INTACT", None, ("distribution-shift",),
         "Trains a network that keeps working when points are noisy or missing; for LiDAR and other point inputs.",
         "none"),
    Card(16, "myodex", "MyoDex: A Generalizable Prior for Dexterous Manipulation",
         "MyoDex", 2023, "2309.03130", "control", "anytask.control:MyoDex", "control",
         ("manipulation", "multi-task-control"),
         "A hand policy pretrained on several tasks, to fine-tune on a new one; when samples per task are few.",
         "none"),
    Card(17, "simclrv2", "Big Self-Supervised Models are Strong Semi-Supervised Learners",
         "SimCLRv2", 2020, "2006.10029", "pretrain", "anytask.pretrain:SimCLRv2", None,
         ("frozen-features", "few-labels", "distillation"),
         "Pretrain without labels, fine-tune on few, distil into a small student; for many images and few labels.",
         "none"),
    Card(18, "leadqa", "LeAdQA: LLM-Driven Context-Aware Temporal Grounding for Video Question Answering",
         "LeAdQA", 2025, "2507.14784", "agents", "anytask.agents:LeAdQA", "agents", ("multi-step-reasoning",),
         "Answers questions on long videos from the few segments that matter; for any timeline with embeddings.",
         "none"),
    Card(19, "skillblender",
         "SkillBlender: Towards Versatile Humanoid Whole-Body Loco-Manipulation via Skill Blending",
         "SkillBlender", 2025, "2506.09366", "control", "anytask.control:SkillBlender", "control",
         ("locomotion", "manipulation", "multi-task-control"),
         "Trains task-free skills once, then blends them joint by joint; for new tasks with one or two reward terms.",
         "train"),
    Card(20, "ernie3",
         "ERNIE 3.0: Large-scale Knowledge Enhanced Pre-training for Language Understanding and Generation",
         "ERNIE 3.0", 2021, "2107.02137", "pretrain", "anytask.pretrain:ERNIE3", "text",
         ("language-pretraining",),
         "One text model that understands and generates, trained on text and facts; for a corpus with triples.",
         "none"),
    Card(21, "xmtf", "Crosslingual Generalization through Multitask Finetuning",
         "xMTF", 2022, "2211.01786", "multitask", "anytask.multitask:XMTF", "text", ("instruction-tuning",),
         "Makes a multilingual model follow instructions, also on new tasks and in languages the fine-tuning lacked.",
         "test"),
    Card(22, "uniqa", "UniQA: Unified Vision-Language Pre-training for Image Quality and Aesthetic Assessment",
         "UniQA", 2024, "2406.01069", "pretrain", "anytask.pretrain:UniQA", "text", ("image-quality",),
         "Scores the quality and beauty of images from text prompts, or with a tiny adapter when some scores exist.",
         "none"),
    Card(23, "anomalyclip", "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly Detection",
         "AnomalyCLIP", 2023, "2310.18961", "robust", "anytask.robust:AnomalyCLIP", "text", ("anomaly-detection",),
         "Train once, then score and map anomalies on objects never seen; when the target has no training images.",
         "none"),
    Card(24, "ag2manip",
         "Ag2Manip: Learning Novel Manipulation Skills with Agent-Agnostic Visual and Action Representations",
         "Ag2Manip", 2024, "2404.17521", "control", "anytask.control:Ag2Manip", "control", ("manipulation",),
         "Learns a manipulation skill from one goal picture; no demonstrations and no hand-written reward.",
         "train"),
    Card(25, "gcm",
         "Generalized Correctness Models: Learning Calibrated and Model-Agnostic Correctness Predictors from "
         "Historical Patterns",
         "GCM", 2025, "2509.24988", "evaluate", "anytask.evaluate:GCM", "text", ("correctness-prediction",),
         "Calibrated chance that a model's answer is right, also for models it never saw; when you have graded logs.",
         "none"),
    Card(26, "owl",
         "OWL: Optimized Workforce Learning for General Multi-Agent Assistance in Real-World Task Automation",
         "OWL", 2025, None, "agents", "anytask.agents:OWL", "agents", ("multi-step-reasoning", "tool-use"),
         "A planner, a coordinator and workers with tools; for new domains by other workers, with a trainable planner.",
         "none"),
    Card(27, "sgrl-set", "Subequivariant Graph Reinforcement Learning in 3D Environments",
         "SGRL", 2023, "2305.18951", "control", "anytask.control:SGRL", "control",
         ("locomotion", "multi-task-control"),
         "One policy for bodies of different shape, in any heading; when robots differ or turn and gravity stays.",
         "none"),
    Card(28, "lumos", "Lumos: Learning Agents with Unified Data, Modular Design, and Open-Source LLMs",
         "Lumos", 2023, "2311.05657", "agents", "anytask.agents:Lumos", "agents", ("multi-step-reasoning", "tool-use"),
         "Trains a planner and a grounder from reasoning traces in one format; a domain is its list of actions.",
         "test"),
    Card(29, "rl100", "RL-100: Performant Robotic Manipulation with Real-World Reinforcement Learning",
         "RL-100", 2025, "2510.14830", "control", "anytask.control:RL100", "control",
         ("visuomotor",),
         "Takes a diffusion policy from demonstrations to near-perfect success by offline, then short online learning.",
         "train"),
    Card(30, "passive-safe-rl",
         "Towards Passive Safe Reinforcement Learning: A Comparative Study on Contact-rich Robotic Manipulation",
         "Passive Safe RL", 2025, "2503.00287", "control", "anytask.control:PassiveSafeRL", "control",
         ("manipulation", "safe-control"),
         "Contact policies within an energy budget, and a filter that makes any policy passive; for robots that touch.",
         "none"),
    Card(31, "sade", "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed Recognition",
         "SADE", 2021, "2107.09249", "robust", "anytask.robust:SADE", None, ("long-tail", "distribution-shift"),
         "Three experts, weighted on unlabelled test data; for rare classes when the test mix is unknown.",
         "none"),
    Card(32, "cico", "CiCo: Domain-Aware Sign Language Retrieval via Cross-Lingual Contrastive Learning",
         "CiCo", 2023, "2303.12793", "pretrain", "anytask.pretrain:CiCo", "text", ("paired-retrieval",),
         "Matches two kinds of token sequences, such as sign videos and sentences, and shows which parts correspond.",
         "none"),
    Card(33, "xmai",
         "Cross-Modal Attribute Insertions for Assessing the Robustness of Vision-and-Language Learning",
         "XMAI", 2023, "2306.11065", "evaluate", "anytask.evaluate:XMAI", "text", ("robustness-report",),
         "Rewrites captions with attributes seen in the image, and measures how much any image-text model degrades.",
         "none"),
    Card(34, "autodistil",
         "AutoDistil: Few-shot Task-agnostic Neural Architecture Search for Distilling Large Language Models",
         "AutoDistil", 2022, "2201.12507", "pretrain", "anytask.pretrain:AutoDistil", "text",
         ("language-pretraining", "distillation"),
         "Cuts the best small student for a budget out of one trained super-model; when budgets change.",
         "none"),
    Card(35, "gpt3", "Language Models are Few-Shot Learners",
         "GPT-3", 2020, "2005.14165", "incontext", "anytask.incontext:GPT3", "text", ("few-shot-text",),
         "Solves a text task by a description and K examples in the prompt; the baseline to try first, no training.",
         "test"),
    Card(36, "ibc", "Model-agnostic Measure of Generalization Difficulty",
         "Inductive-bias complexity", 2023, "2305.01034", "evaluate", "anytask.evaluate:InductiveBiasComplexity", None,
         ("task-difficulty",),
         "The bits a designer must add beyond the data to generalise; to compare how hard benchmarks are.",
         "train"),
    Card(37, "agnostic-rl", "Agnostic Reinforcement Learning: Foundations and Algorithms",
         "Agnostic RL", 2025, "2506.01884", "control", "anytask.control:AgnosticRL", "control", ("policy-selection",),
         "Finds a near-best policy in a given class and says which guarantee holds; when you own a zoo of policies.",
         "none"),
    Card(38, "laf", "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models",
         "LAF", 2024, "2404.00506", "continual", "anytask.continual:LAF", None, ("unlearning",),
         "Makes a network forget given records without their labels; for requests to erase a user's data.",
         "none"),
    Card(39, "natural-instructions",
         "Cross-Task Generalization via Natural Language Crowdsourcing Instructions",
         "Natural Instructions", 2021, "2104.08773", "multitask", "anytask.multitask:NaturalInstructions", "text",
         ("instruction-tuning",),
         "Trains on tasks with written instructions and measures unseen tasks; to test if instructions generalise.",
         "test"),
    Card(40, "inboxbart", "In-BoXBART: Get Instructions into Biomedical Multi-Task Learning",
         "In-BoXBART", 2022, "2204.07600", "multitask", "anytask.multitask:InBoXBART", "text",
         ("instruction-tuning", "multi-task-training"),
         "One text-to-text model for many tasks of a domain, told apart by instructions; adapts from ~32 examples.",
         "test"),
    Card(41, "ovor",
         "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental Learning",
         "OVOR", 2024, "2402.04129", "continual", "anytask.continual:OVOR", None, ("task-stream",),
         "Adds classes to a frozen transformer with one shared prompt and virtual outliers; when no data may be kept.",
         "test"),
    Card(42, "atlas", "Knowledge Composition using Task Vectors with Learned Anisotropic Scaling",
         "aTLAS", 2024, "2407.02880", "multitask", "anytask.multitask:ATLAS", None, ("model-composition",),
         "Combines your fine-tuned checkpoints by a learned scale per block; to merge, forget or adapt on little data.",
         "train"),
    Card(43, "gpicl", "General-Purpose In-Context Learning by Meta-Learning Transformers",
         "GPICL", 2022, "2212.04458", "incontext", "anytask.incontext:GPICL", None, ("in-context-learning",),
         "A model whose forward pass is a learner: labelled examples in, label out; for unseen data without training.",
         "train"),
    Card(44, "fs-mtl", "Improving Multi-task Learning via Seeking Task-based Flat Regions",
         "FS-MTL", 2022, "2211.13723", "multitask", "anytask.multitask:FSMTL", None, ("multi-task-training",),
         "Wraps any multi-task optimiser to end in a flat minimum for every task; when tasks are small or noisy.",
         "test"),
    Card(45, "l1-amtrl", "Improved Active Multi-Task Representation Learning via Lasso",
         "L1-A-MTRL", 2023, "2306.02556", "multitask", "anytask.multitask:L1AMTRL", None,
         ("multi-task-training", "source-selection"),
         "Says how many samples to draw from each source task for a target with few labels; when data must be bought.",
         "test"),
    Card(46, "ic-lora", "In-Context LoRA for Diffusion Transformers",
         "IC-LoRA", 2024, "2410.23775", "imagegen", "anytask.imagegen:ICLoRA", "imagegen", ("image-sets",),
         "Teaches a text-to-image model to make sets of related images from 20-100 examples, with a small adapter.",
         "train"),
    Card(47, "uni-perceiver-v2",
         "Uni-Perceiver v2: A Generalist Model for Large-Scale Vision and Vision-Language Tasks",
         "Uni-Perceiver v2", 2022, "2211.09808", "multitask", "anytask.multitask:UniPerceiverV2", None,
         ("paired-retrieval", "zero-shot-classification"),
         "One set of weights for vision and vision-language tasks; a new task is a new set of candidate answers.",
         "test"),
    Card(48, "provable-pretraining", "On the Provable Advantage of Unsupervised Pretraining",
         "MLE+ERM", 2023, "2303.01566", "pretrain", "anytask.pretrain:MLEERM", None, ("frozen-features", "few-labels"),
         "Fits a latent model to unlabelled data, then a small predictor; says when that beats supervised learning.",
         "none"),
    Card(49, "most-of-your-model",
         "Making the Most of your Model: Methods for Finetuning and Applying Pretrained Transformers",
         "Making the most of your model", 2024, "2408.16241", "decoding", "anytask.decoding:MostOfYourModel", "text",
         ("guided-generation",),
         "Longer context, non-autoregressive decoding and better search from a pretrained model; four separate tools.",
         "none"),
    Card(50, "task-hinting", "Improving Length-Generalization in Transformers via Task Hinting",
         "Task hinting", 2023, "2310.00726", "incontext", "anytask.incontext:TaskHinting", None,
         ("length-generalization",),
         "Trains on short sequences with a cheap auxiliary task so that much longer ones work; for algorithmic tasks.",
         "test"),
    Card(51, "fscl-tsc", "Few-shot Continual Learning: a Brain-inspired Approach",
         "TSC", 2021, "2104.09034", "continual", "anytask.continual:TSC", None, ("task-stream",),
         "Fast and slow weights over a long run of few-shot tasks; remembers old ones and gets better at new ones.",
         "boundary"),
    Card(52, "dynamic-logit-fusion", "On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion",
         "Dynamic Logit Fusion", 2024, "2406.15480", "decoding", "anytask.decoding:DynamicLogitFusion", "text",
         ("guided-generation", "model-composition"),
         "Lends what small tuned models know to a frozen large one at each token; when the large one can't be tuned.",
         "train"),
    Card(53, "udr", "Unified Demonstration Retriever for In-Context Learning",
         "UDR", 2023, "2305.04320", "incontext", "anytask.incontext:UDR", "text",
         ("few-shot-text", "demonstration-selection"),
         "One retriever of prompt examples for many tasks, trained on a model's feedback; when examples are plenty.",
         "test"),
    Card(54, "r-mtgb", "Robust-Multi-Task Gradient Boosting",
         "R-MTGB", 2025, None, "multitask", "anytask.multitask:RMTGB", None, ("multi-task-training",),
         "Boosted trees for many tasks in one table, with an outlier score per task; when some tasks don't belong.",
         "test"),
    Card(55, "kid", "Knowledge Infused Decoding",
         "KID", 2022, "2204.03084", "decoding", "anytask.decoding:KID", "text",
         ("guided-generation", "knowledge-intensive-text"),
         "Steers a frozen language model towards facts from your documents at every token; no training.",
         "none"),
    Card(56, "ugr", "A Unified Generative Retriever for Knowledge-Intensive Language Tasks via Prompt Learning",
         "UGR", 2023, "2304.14856", "decoding", "anytask.decoding:UGR", "text", ("knowledge-intensive-text",),
         "Retrieves documents, passages, sentences or entities by writing n-grams of the corpus; one model for all.",
         "test"),
    Card(57, "disco", "DISCO: Distilling Counterfactuals with Large Language Models",
         "DISCO", 2022, "2212.10534", "synthesis", "anytask.synthesis:DISCO", "synthesis", ("data-synthesis",),
         "Makes pairs that differ by one phrase and flip the label; for classifiers that must be robust.",
         "train"),
    Card(58, "impossible-distillation",
         "Impossible Distillation: from Low-Quality Model to High-Quality Dataset & Model for Summarization and "
         "Paraphrasing",
         "Impossible Distillation", 2023, "2305.16635", "synthesis", "anytask.synthesis:ImpossibleDistillation",
         "synthesis", ("data-synthesis", "distillation"),
         "Mines paraphrase and summary pairs from a small language model and a critic; no labels and no big teacher.",
         "train"),
    Card(59, "icl-discrete",
         "Understanding In-Context Learning in Transformers and LLMs by Learning to Learn Discrete Functions",
         "ICL of discrete functions", 2023, "2310.03016", "incontext", "anytask.incontext:ICLDiscrete", "text",
         ("in-context-learning",),
         "Tests how well a sequence model learns Boolean functions from its context, beside the optimal learners.",
         "train"),
    Card(60, "rad", "Robust Active Distillation",
         "RAD", 2022, "2210.01213", "robust", "anytask.robust:RAD", None,
         ("few-labels", "active-labelling", "distillation"),
         "Picks what to ask a teacher and distils its answers; when the teacher is costly and sometimes wrong.",
         "none"),
    Card(61, "claps",
         "Survival of the Most Influential Prompts: Efficient Black-Box Prompt Search via Clustering and Pruning",
         "ClaPS", 2023, "2310.12774", "prompts", "anytask.prompts:ClaPS", "text", ("few-shot-text", "prompt-search"),
         "Finds a short prompt for a model you can only query, by pruning the vocabulary first; when calls are few.",
         "train"),
    Card(62, "migu", "Unlocking Continual Learning Abilities in Language Models",
         "MIGU", 2024, "2406.17245", "continual", "anytask.continual:MIGU", "text", ("task-stream",),
         "Masks gradients by activation size in any fine-tuning loop to forget less; no replay and no task labels.",
         "none"),
    Card(63, "behavior-retrieval", "Behavior Retrieval: Few-Shot Imitation Learning by Querying Unlabeled Datasets",
         "Behavior Retrieval", 2023, "2304.08742", "control", "anytask.control:BehaviorRetrieval", "control",
         ("few-demos",),
         "Keeps what looks like your few demonstrations in a big unlabelled data set, and imitates both.",
         "train"),
    Card(64, "bonito", "Learning to Generate Instruction Tuning Datasets for Zero-Shot Task Adaptation",
         "Bonito", 2024, "2402.18334", "synthesis", "anytask.synthesis:Bonito", "synthesis",
         ("data-synthesis", "instruction-tuning"),
         "Turns unlabelled text of your domain into an instruction-tuning set of a chosen task type; no labels needed.",
         "train"),
    Card(65, "votek", "Selective Annotation Makes Language Models Better Few-Shot Learners",
         "vote-k", 2022, "2209.01975", "incontext", "anytask.incontext:VoteK", "text",
         ("few-shot-text", "demonstration-selection"),
         "Chooses which unlabelled examples to annotate for prompting; when you can pay for 18 or 100 labels.",
         "train"),
    Card(66, "sim-rag",
         "Knowing You Don't Know: Learning When to Continue Search in Multi-round RAG through Self-Practicing",
         "SIM-RAG", 2025, "2505.02811", "agents", "anytask.agents:SIMRAG", "agents",
         ("knowledge-intensive-text", "multi-step-reasoning"),
         "A small critic tells a retrieval system when to stop searching; when answers come too early or too late.",
         "train"),
    Card(67, "tl-training",
         "TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use",
         "TL-Training", 2024, "2412.15495", "agents", "anytask.agents:TLTraining", "agents", ("tool-use",),
         "Fine-tunes a model to call the right tool with the right values; for about a thousand trajectories.",
         "test"),
    Card(68, "sla", "Self-supervised Label Augmentation via Input Transformations",
         "SLA", 2019, "1910.05872", "robust", "anytask.robust:SLA", None, ("few-labels", "long-tail"),
         "A better classifier from the same labels by also predicting transformations; for small or imbalanced data.",
         "none"),
    Card(69, "prd", "Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning",
         "PRD", 2023, "2303.14771", "continual", "anytask.continual:PRD", None, ("task-stream",),
         "Learns new classes with prototypes and without storing a single old sample; when task ends are announced.",
         "test"),
    Card(70, "agnostics",
         "Agnostics: Learning to Code in Any Programming Language via Reinforcement with a Universal Learning "
         "Environment",
         "Agnostics", 2025, "2508.04865", "synthesis", "anytask.synthesis:Agnostics", "synthesis",
         ("data-synthesis", "code-generation"),
         "Trains a model to write a programming language you describe in five lines, judged only by what it prints.",
         "train"),
    Card(71, "visualcloze", "VisualCloze: A Universal Image Generation Framework via Visual In-Context Learning",
         "VisualCloze", 2025, "2504.07960", "imagegen", "anytask.imagegen:VisualCloze", "imagegen", ("image-sets",),
         "Fills the blank in a grid of worked image examples; for image tasks easier to show than to name.",
         "test"),
    Card(72, "promptquine", "Evolving Prompts In-Context: An Open-ended, Self-replicating Perspective",
         "PromptQuine", 2025, "2506.17930", "prompts", "anytask.prompts:PromptQuine", "text",
         ("few-shot-text", "prompt-search"),
         "Prunes a few-shot prompt by evolution until a frozen model does better; when you have 8 labels per class.",
         "train"),
    Card(73, "p-rag",
         "P-RAG: Progressive Retrieval Augmented Generation For Planning on Embodied Everyday Task",
         "P-RAG", 2024, "2409.11279", "agents", "anytask.agents:PRAG", "agents", ("text-environment",),
         "Lets a frozen chat model act better by recalling its own past episodes; for tasks that come back.",
         "test"),
    Card(74, "gkcl", "Generative Kernel Continual Learning",
         "GKCL", 2021, "2112.13410", "continual", "anytask.continual:GKCL", None, ("task-stream",),
         "A kernel classifier per task on generated support sets; constant memory when task ids are known at test.",
         "test"),
    Card(75, "self-guide", "SELF-GUIDE: Better Task-Specific Instruction Following via Self-Synthetic Finetuning",
         "SELF-GUIDE", 2024, "2407.12874", "synthesis", "anytask.synthesis:SelfGuide", "synthesis",
         ("data-synthesis", "instruction-tuning"),
         "A model writes its own training set from an instruction and three examples, then tunes on it; no teacher.",
         "train"),
    Card(76, "multilane",
         "Less is more: Summarizing Patch Tokens for efficient Multi-Label Class-Incremental Learning",
         "MULTI-LANE", 2024, "2405.15633", "continual", "anytask.continual:MultiLane", None, ("task-stream",),
         "Adds labels to a frozen transformer in lanes that never mix; when images carry several labels.",
         "test"),
)
# fmt: on

FAMILIES: tuple[str, ...] = tuple(sorted({card.family for card in SYSTEMS}))
PROBLEMS: tuple[str, ...] = tuple(sorted({problem for card in SYSTEMS for problem in card.problems}))

_BY_KEY = {card.key: card for card in SYSTEMS}


def get(key: str) -> Card:
    """Return the card of one system.

    Parameters
    ----------
    key : str
        Key of the system, such as ``"tame"``.

    Returns
    -------
    Card

    Raises
    ------
    UnknownSystem
        A :class:`KeyError` whose message names the keys that look like the one given.

    Examples
    --------
    >>> get("votek").name
    'vote-k'
    """
    try:
        return _BY_KEY[key]
    except KeyError:
        raise UnknownSystem(key) from None


def search(text: str | None = None, family: str | None = None, problem: str | None = None) -> tuple[Card, ...]:
    """Find the systems that meet every condition given, in order of their number.

    Parameters
    ----------
    text : str, optional
        Words that must all occur in the key, name, title, use or family; upper and lower case count the same.
    family : str, optional
        One of :data:`FAMILIES`.
    problem : str, optional
        One of :data:`PROBLEMS`.

    Returns
    -------
    tuple of Card
        Empty when nothing fits.

    Raises
    ------
    ValueError
        If the family or the problem doesn't exist; the message lists those that do.

    Examples
    --------
    >>> [card.key for card in search("prompt search")]
    ['claps']
    >>> [card.key for card in search(problem="prompt-search")]
    ['claps', 'promptquine']
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; the families are {', '.join(FAMILIES)}")
    if problem is not None and problem not in PROBLEMS:
        raise ValueError(f"unknown problem {problem!r}; the problems are {', '.join(PROBLEMS)}")
    words = (text or "").lower().split()

    def fits(card: Card) -> bool:
        haystack = f"{card.key}\n{card.name}\n{card.title}\n{card.use}\n{card.family}".lower()
        return (
            (family is None or card.family == family)
            and (problem is None or problem in card.problems)
            and all(word in haystack for word in words)
        )

    return tuple(card for card in SYSTEMS if fits(card))


def state(card: Card) -> Literal["available", "planned"]:
    """Say whether the package holds the system, without importing the system itself.

    A system is available when a module of its family lists the class in ``__all__``. The extra it needs may still be
    missing: :func:`load` says so.

    Parameters
    ----------
    card : Card

    Returns
    -------
    {"available", "planned"}

    Examples
    --------
    >>> import dataclasses
    >>> state(dataclasses.replace(get("tame"), entry="anytask.continual:NotWrittenYet"))
    'planned'
    """
    package, _, name = card.entry.partition(":")
    return "available" if name in published(package) else "planned"


def load(card: Card) -> type:
    """Import a system and return its class.

    Parameters
    ----------
    card : Card

    Returns
    -------
    type
        The public class named by ``card.entry``.

    Raises
    ------
    ImportError
        If the system is planned and not available yet, or if a package it needs isn't installed; in that case the
        message names the extra to install.

    Examples
    --------
    >>> import dataclasses
    >>> load(dataclasses.replace(get("tame"), entry="anytask.continual:NotWrittenYet"))
    Traceback (most recent call last):
        ...
    ImportError: TAME is planned, not available yet
    """
    if state(card) == "planned":
        raise ImportError(f"{card.name} is planned, not available yet")
    package, _, name = card.entry.partition(":")
    try:
        return getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == __package__:  # a fault of this package, which no installation would mend
            raise
        wanted = f"anytask[{card.extra}]" if card.extra else "anytask"
        raise ImportError(
            f"{card.name} needs the module {missing!r}, which is not installed: pip install '{wanted}'", name=missing
        ) from error


def as_dict(card: Card) -> dict[str, Any]:
    """Return a card as a dictionary that JSON can hold, with its computed state.

    Parameters
    ----------
    card : Card

    Returns
    -------
    dict
        The fields of the card, ``problems`` as a list, with ``state`` (str) and ``available`` (bool).

    Examples
    --------
    >>> card = as_dict(get("prd"))
    >>> card["arxiv"], card["problems"], card["available"] == (card["state"] == "available")
    ('2303.14771', ['task-stream'], True)
    """
    found = state(card)
    values = {field.name: getattr(card, field.name) for field in fields(card)}
    return values | {"problems": list(card.problems), "state": found, "available": found == "available"}
