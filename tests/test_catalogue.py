"""The catalogue: its facts have the right form, and what it says is available can be imported."""

import dataclasses
import importlib
import json
import pickle
import re
import subprocess
import sys

import pytest

import anytask
from anytask import catalogue
from anytask.catalogue import FAMILIES, PROBLEMS, SYSTEMS, Card, UnknownSystem, as_dict, get, load, search, state
from anytask.core.discovery import published

KEYS = [
    "tame",
    "isocvgae",
    "tart",
    "mtlora",
    "llmlingua2",
    "uwe",
    "nero",
    "galactic",
    "demrag",
    "evosyn",
    "rlot",
    "point-prc",
    "madeleine",
    "clr",
    "scold",
    "intact",
    "myodex",
    "simclrv2",
    "leadqa",
    "skillblender",
    "ernie3",
    "xmtf",
    "uniqa",
    "anomalyclip",
    "ag2manip",
    "gcm",
    "owl",
    "sgrl-set",
    "lumos",
    "rl100",
    "passive-safe-rl",
    "sade",
    "cico",
    "xmai",
    "autodistil",
    "gpt3",
    "ibc",
    "agnostic-rl",
    "laf",
    "natural-instructions",
    "inboxbart",
    "ovor",
    "atlas",
    "gpicl",
    "fs-mtl",
    "l1-amtrl",
    "ic-lora",
    "uni-perceiver-v2",
    "provable-pretraining",
    "most-of-your-model",
    "task-hinting",
    "fscl-tsc",
    "dynamic-logit-fusion",
    "udr",
    "r-mtgb",
    "kid",
    "ugr",
    "disco",
    "impossible-distillation",
    "icl-discrete",
    "rad",
    "claps",
    "migu",
    "behavior-retrieval",
    "bonito",
    "votek",
    "sim-rag",
    "tl-training",
    "sla",
    "prd",
    "agnostics",
    "visualcloze",
    "promptquine",
    "p-rag",
    "gkcl",
    "self-guide",
    "multilane",
]
EXTRAS = {None, "graphs", "control", "agents", "synthesis", "imagegen", "app", "ray", "text"}
AVAILABLE = [card for card in SYSTEMS if state(card) == "available"]

OTTER = "__all__ = ['Otter']\nclass Otter: pass\n"

each_card = pytest.mark.parametrize("card", SYSTEMS, ids=KEYS)


@pytest.fixture
def family(monkeypatch, tmp_path):
    """Add a throw-away family ``anytask.zoo`` of modules with the given sources, and return its folder."""
    folder = tmp_path / "zoo"
    monkeypatch.setattr(anytask, "__path__", [*anytask.__path__, str(tmp_path)])

    def add(**sources):
        folder.mkdir(exist_ok=True)
        publishing = "from anytask.core.discovery import publish\n__getattr__, __dir__ = publish(__name__)\n"
        for name, source in {"__init__": publishing, **sources}.items():
            (folder / f"{name}.py").write_text(source)
        published.cache_clear()
        importlib.invalidate_caches()
        return folder

    yield add
    published.cache_clear()
    for name in [name for name in sys.modules if name.startswith("anytask.zoo")]:
        del sys.modules[name]


def zoo_card(name, extra=None):
    return dataclasses.replace(get("tame"), name=name, entry=f"anytask.zoo:{name}", extra=extra)


def test_numbers_and_keys_are_the_77_of_the_catalogue_in_order():
    assert len(KEYS) == 77
    assert [card.number for card in SYSTEMS] == list(range(77))
    assert [card.key for card in SYSTEMS] == KEYS


def test_families_are_the_twelve_of_the_package():
    twelve = ["continual", "multitask", "pretrain", "robust", "incontext", "prompts"]
    twelve += ["decoding", "synthesis", "agents", "control", "evaluate", "imagegen"]
    assert sorted(FAMILIES) == sorted(twelve)


def test_titles_names_entries_and_arxiv_ids_are_not_shared():
    for field in ("title", "name", "entry"):
        assert len({getattr(card, field) for card in SYSTEMS}) == 77
    ids = [card.arxiv for card in SYSTEMS if card.arxiv is not None]
    assert len(set(ids)) == len(ids)


@each_card
def test_card_is_well_formed(card):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", card.key)
    assert re.fullmatch(rf"anytask\.{card.family}:[A-Z][A-Za-z0-9]+", card.entry)
    assert card.extra in EXTRAS
    assert card.sees in {"none", "boundary", "train", "test"}
    assert card.problems and len(set(card.problems)) == len(card.problems)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", problem) for problem in card.problems)
    for text in (card.title, card.name, card.use):
        assert text == " ".join(text.split()) != ""


@each_card
def test_use_is_one_line_under_140_characters(card):
    assert 40 < len(card.use) < 140
    assert "\n" not in card.use


@pytest.mark.parametrize("card", [card for card in SYSTEMS if card.arxiv], ids=lambda card: card.key)
def test_year_is_that_of_the_arxiv_identifier(card):
    match = re.fullmatch(r"(\d\d)(0[1-9]|1[0-2])\.\d{5}", card.arxiv)
    assert match
    assert card.year == 2000 + int(match[1])


@pytest.mark.parametrize(
    ("key", "entry", "problems", "sees"),
    [
        ("tame", "anytask.continual:TAME", {"task-stream"}, "none"),
        ("prd", "anytask.continual:PRD", {"task-stream"}, "test"),
        ("gkcl", "anytask.continual:GKCL", {"task-stream"}, "test"),
        ("votek", "anytask.incontext:VoteK", {"few-shot-text", "demonstration-selection"}, None),
        ("udr", "anytask.incontext:UDR", {"few-shot-text", "demonstration-selection"}, None),
        ("gpt3", "anytask.incontext:GPT3", {"few-shot-text"}, None),
        ("promptquine", "anytask.prompts:PromptQuine", {"few-shot-text", "prompt-search"}, None),
        ("llmlingua2", "anytask.prompts:LLMLingua2", {"few-shot-text", "prompt-compression"}, None),
    ],
)
def test_names_that_other_programs_rely_on(key, entry, problems, sees):
    card = get(key)
    assert card.entry == entry
    assert set(card.problems) == problems
    assert sees in (None, card.sees)


def test_cards_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("tame").year = 1999
    assert not hasattr(get("tame"), "__dict__")


@each_card
def test_get_finds_each_card_by_its_key(card):
    assert get(card.key) is card


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("tme", "tame"), ("TAME", "tame"), ("LLMLingua-2", "llmlingua2"), ("vote-k", "votek"), ("sgrl", "sgrl-set")],
)
def test_unknown_key_names_the_close_ones(wrong, meant):
    with pytest.raises(KeyError) as caught:
        get(wrong)
    assert isinstance(caught.value, UnknownSystem)
    assert repr(wrong) in str(caught.value)
    assert repr(meant) in str(caught.value)


def test_unknown_key_that_resembles_none_says_where_to_look():
    with pytest.raises(UnknownSystem, match="anytask list"):
        get("qqqqqqqq")


def test_unknown_system_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UnknownSystem("tme")))
    assert str(error) == str(UnknownSystem("tme"))


def test_search_without_conditions_gives_all():
    assert search() == SYSTEMS
    assert search("") == SYSTEMS


def test_search_wants_all_words_whatever_their_case():
    assert {get("udr"), get("demrag"), get("sim-rag")} <= set(search("retriev"))
    assert search("RETRIEV multi-round") == (get("sim-rag"),)
    assert search("retriev zebra") == ()


@pytest.mark.parametrize("word", ["most-of-your-model", "aTLAS", "lasso", "imbalanced", "imagegen"])
def test_search_looks_in_key_name_title_use_and_family(word):
    assert search(word)


def test_search_conditions_narrow_each_other_and_keep_the_order():
    found = search(family="continual", problem="task-stream")
    assert found == tuple(card for card in SYSTEMS if card.family == "continual" and "task-stream" in card.problems)
    assert search("prototype", family="continual", problem="task-stream") == (get("prd"),)
    assert search(family="imagegen", problem="task-stream") == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_systems(family):
    assert search(family=family)
    assert all(card.family == family for card in search(family=family))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_problem_has_systems(problem):
    assert all(problem in card.problems for card in search(problem=problem))
    assert search(problem=problem)


def test_unknown_family_or_problem_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'continuous'.*continual.*synthesis"):
        search(family="continuous")
    with pytest.raises(ValueError, match=r"'streams'.*few-shot-text.*task-stream"):
        search(problem="streams")


def test_a_system_is_planned_until_a_module_of_its_family_publishes_its_class(family):
    card = zoo_card("Otter")
    assert state(card) == "planned"  # no family
    family(badger=OTTER.replace("Otter", "Badger"))
    assert state(card) == "planned"  # another system
    family(otter="class Otter: pass")
    assert state(card) == "planned"  # the class is there, and not published
    family(otter=f"{OTTER}raise RuntimeError('state() must not run this')")
    assert state(card) == "available"


def test_a_family_that_needs_a_missing_package_is_listed_all_the_same(family):
    with (family(otter=OTTER) / "__init__.py").open("a") as file:
        file.write("import a_module_nobody_wrote\n")
    assert state(zoo_card("Otter")) == "available"
    with pytest.raises(ImportError, match=r"needs the module 'a_module_nobody_wrote'.*pip install 'anytask\[text\]'"):
        load(zoo_card("Otter", "text"))


def test_loading_a_planned_system_says_that_it_is_planned(family):
    family()
    with pytest.raises(ImportError, match="Otter is planned, not available yet"):
        load(zoo_card("Otter"))


def test_load_returns_the_published_class(family):
    family(otter=OTTER)
    assert load(zoo_card("Otter")).__module__ == "anytask.zoo.otter"


@pytest.mark.parametrize(("extra", "wanted"), [("text", "anytask[text]"), (None, "anytask")])
def test_load_names_the_extra_of_a_missing_package(family, extra, wanted):
    family(otter=f"import a_module_nobody_wrote.deep\n{OTTER}")
    with pytest.raises(ImportError) as caught:
        load(zoo_card("Otter", extra))
    assert caught.value.name == "a_module_nobody_wrote"
    assert f"pip install '{wanted}'" in str(caught.value)


def test_load_passes_on_a_fault_of_the_package_itself(family):
    family(otter=f"import anytask.a_module_nobody_wrote\n{OTTER}")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'anytask\.a_module_nobody_wrote'"):
        load(zoo_card("Otter", "text"))


@pytest.mark.parametrize("card", AVAILABLE, ids=[card.key for card in AVAILABLE])
def test_what_is_available_can_be_loaded(card):
    try:
        system = load(card)
    except ImportError as error:
        if card.extra is None or f"anytask[{card.extra}]" not in str(error):
            raise
        pytest.skip(str(error))
    assert isinstance(system, type)
    assert f"{card.family}:{system.__name__}" == card.entry.removeprefix("anytask.")
    assert system.__module__.startswith(f"anytask.{card.family}.")


@pytest.mark.parametrize("card", [card for card in SYSTEMS if state(card) == "planned"], ids=lambda card: card.key)
def test_what_is_planned_cannot_be_imported(card):
    package, _, name = card.entry.partition(":")
    with pytest.raises((AttributeError, ModuleNotFoundError), match=f"{re.escape(package)}|{name}"):
        getattr(importlib.import_module(package), name)


@each_card
def test_as_dict_is_json_and_agrees_with_the_state(card):
    values = as_dict(card)
    assert json.loads(json.dumps(values)) == values
    assert set(values) == {field.name for field in dataclasses.fields(Card)} | {"state", "available"}
    assert values["state"] == state(card)
    assert values["available"] is (values["state"] == "available")
    assert tuple(values["problems"]) == card.problems


def test_listing_every_state_loads_no_heavy_module():
    script = (
        "import sys\n"
        "from anytask import catalogue\n"
        "cards = [catalogue.as_dict(card) for card in catalogue.SYSTEMS]\n"
        "print(len(cards), *(set(sys.modules) & {'torch', 'transformers', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    cards, *heavy = done.stdout.split()
    assert cards == "77"
    assert heavy == []


def test_public_names_exist():
    assert all(hasattr(catalogue, name) for name in catalogue.__all__)


def test_a_card_says_what_its_class_declares():
    for card in SYSTEMS:
        if state(card) == "available" and hasattr(cls := load(card), "sees"):
            assert card.sees == cls.sees, card.key
