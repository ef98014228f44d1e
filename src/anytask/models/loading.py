"""Load Hugging Face weights without progress bars on the user's terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch transformers' progress bars off inside the block, and back on if they were on.

    Examples
    --------
    >>> from transformers.utils import logging
    >>> with quiet_loading():
    ...     logging.is_progress_bar_enabled()
    False
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
