"""One thread per test process: the tests run side by side, and small tensors gain nothing from more."""

import os

import hypothesis

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("anytask", deadline=None)
hypothesis.settings.load_profile("anytask")
