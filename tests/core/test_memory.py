"""Memory that was freed goes back to the system."""

import platform

import numpy as np
import psutil
import pytest

from anytask.core.memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, which keeps memory in its own way")
def test_freed_memory_is_given_back():
    process = psutil.Process()
    large = np.ones(3_000_000)  # from here on the allocator keeps blocks of up to that size
    del large
    blocks = [np.ones(125_000) for _ in range(200)]  # 1 MB each
    full = process.memory_info().rss
    kept = blocks[::20]
    del blocks
    give_back()
    assert process.memory_info().rss < full - 100_000_000 and len(kept) == 10
