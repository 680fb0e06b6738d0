"""The environment variables by which `accelerate launch` describes the processes of a training."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

# If the main process has failed, the launcher ends the others within this time.
MAIN_FIRST_S = 5.0


def is_launched() -> bool:
    """Return whether this is one of several processes of one training."""
    # A scheduler may set WORLD_SIZE for a single process; only the launcher sets LOCAL_RANK.
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def is_main() -> bool:
    """Return whether this process writes files, logs and prints."""
    return not is_launched() or os.environ["RANK"] == "0"


@contextmanager
def main_first() -> Iterator[None]:
    """Delay errors on other ranks, so that rank 0 reports a shared failure first."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if not is_main():
            time.sleep(MAIN_FIRST_S)
        raise
