"""Python's garbage collector in a command: it runs rarely, and not at the end of the process."""

import atexit
import gc
from functools import cache

# New objects, less deleted ones, before the collector looks at the young ones. Python's own number is 700.
THRESHOLD = 100_000


@cache
def collect_rarely() -> None:
    """Let the collector run rarely from now on, and leave all objects to the operating system when the process ends.

    Importing torch, transformers and MLflow makes millions of objects that live as long as the process. With Python's
    own numbers the collector walks them again and again while they are made, and once more at the end. That is 4 of the
    13 s of processor time that stage `frozen` takes with the tiny CLIP.
    """
    gc.set_threshold(THRESHOLD, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
