"""One thread per test process: the tests run side by side, and small tensors gain nothing from more."""

import collections
import gc
import json
import os
import time

import hypothesis
import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# How long an example takes, or takes to be drawn, says more about the machine than about the code.
hypothesis.settings.register_profile("anytask", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("anytask")


@pytest.fixture(scope="module")
def small_heap():
    """Each run of a comparison collects garbage twice: what other tests have imported is left out of that."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


_seconds: collections.Counter[str] = collections.Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measure the processor time of each test; `make house` shows it by folder."""
    begin = time.process_time()
    item.user_properties.append(("cpu_begin", begin))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        begin = dict(item.user_properties)["cpu_begin"]
        report.user_properties = [("cpu_seconds", time.process_time() - begin)]
    return report


def pytest_runtest_logreport(report):
    _seconds[report.location[0]] += dict(report.user_properties).get("cpu_seconds", 0.0)


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput") and len(_seconds) > 50:  # the whole suite, not a selection
        record = session.config.rootpath / ".pytest_cache" / "cpu_seconds.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(_seconds, indent=1))
