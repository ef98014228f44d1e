"""Tasks that are learned one after the other through LoRA: what is trained, and what a mask keeps from learning."""

import math

import pytest
import torch

from anytask.claims.continual.lora_texts import LoRATuning
from anytask.claims.text_tasks import asked
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.lm import LocalLM, load_lm

pytest.importorskip("peft", reason="needs the extra text")
TASK = RetrievalTask("films", ["good film", "bad film", "fine film"], ["yes", "no", "yes"], "Good?", ["yes", "no"])


@pytest.fixture(scope="module")
def lm():
    """A random Llama with the tokenizer of the tiny model that ships with the package."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_lm("tiny:icl").tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalLM((LlamaForCausalLM(config).eval(), tokenizer))


def tuned(lm, n_before, **settings):
    tuning = LoRATuning(lr=0.01, batch_size=2, **settings)
    tuning.start(lm)
    tuning.learn([TASK], n_before)
    return tuning


def changed(tuning):
    """Return the share of rows of the B of all pairs, which begin at 0, that have learned."""
    rows = [w.abs().sum(1) > 0 for n, w in tuning.model.named_parameters() if w.requires_grad and "lora_B" in n]
    return torch.cat(rows).float().mean().item()


def test_the_loss_is_the_cross_entropy_of_the_answers_tokens(lm):
    tuning = tuned(lm, 0, epochs=0)
    prompts = [asked(TASK, text) for text in TASK.inputs]
    scores = lm.score(prompts, [[f" {answer}"] for answer in TASK.outputs])
    total = -sum(one.logprob for [one] in scores) / sum(one.n_tokens for [one] in scores)
    assert math.isclose(tuning._loss(tuning._rows(TASK)).item(), total, rel_tol=1e-4)


def test_only_the_pairs_learn_and_the_given_model_is_left_as_it_was(lm):
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    tuning = tuned(lm, 0)
    after = lm.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    kept = {n.replace(".base_layer", ""): w for n, w in tuning.model.state_dict().items() if "lora" not in n}
    assert all(torch.equal(before[name], kept[name]) for name in before)
    assert changed(tuning) == 1


@pytest.mark.parametrize("gate", ["magnitude", "random"])
def test_a_mask_keeps_rows_from_learning_from_the_second_task_on(lm, gate):
    assert changed(tuned(lm, 0, gate=gate)) == 1
    assert changed(tuned(lm, 1, gate=gate)) < 0.7  # two steps, three tenths of the units each
