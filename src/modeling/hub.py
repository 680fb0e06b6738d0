"""The Hub, from which the checkpoints of full size come: whether it answers is found out in seconds."""

import os
import ssl
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from src.cli.output import warn

_ADDRESS = "https://huggingface.co"
_ANSWERS_WITHIN_S = 5.0


def go_offline_if_hub_unreachable() -> None:
    """Have the Hub's library read its cache alone where the Hub does not answer, and say so.

    By itself it tries each file six times over half a minute, two files a checkpoint. To be called before the library
    is imported, which reads its environment only then.
    """
    address = os.environ.get("HF_ENDPOINT") or _ADDRESS
    if not os.environ.get("HF_HUB_OFFLINE") and not _answers(address):
        warn(f"{address} does not answer: only checkpoints that were fetched before can be loaded")
        os.environ["HF_HUB_OFFLINE"] = "1"


def _answers(address: str) -> bool:
    """Whether there is an answer at all; what is wrong with one is for the library to say."""
    try:
        request = Request(address, method="HEAD")  # noqa: S310 # the user's own setting
        urlopen(request, timeout=_ANSWERS_WITHIN_S).close()  # noqa: S310
    except (HTTPError, ValueError):
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True
