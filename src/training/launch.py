"""The processes of one training, as `accelerate launch` tells each in its environment."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

# By then the launcher has ended all processes, if the main one has failed.
MAIN_FIRST_S = 5.0


def is_launched() -> bool:
    """Whether this is one of several processes of one training."""
    # A scheduler may set the first for a process that stands alone; the second is the launcher's own.
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def is_main() -> bool:
    """Whether this process writes the files, logs and prints."""
    return not is_launched() or os.environ["RANK"] == "0"


@contextmanager
def main_first() -> Iterator[None]:
    """Leave it to the main process to say what has gone wrong in all; what is wrong in one alone is said later."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if not is_main():
            time.sleep(MAIN_FIRST_S)
        raise
