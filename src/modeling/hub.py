"""A quick check whether the Hub answers, before checkpoints of full size are loaded."""

import os
import ssl
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from src.cli.output import warn

_ADDRESS = "https://huggingface.co"
_ANSWERS_WITHIN_S = 5.0


def go_offline_if_hub_unreachable() -> None:
    """Make the Hub's library read only its cache if the Hub does not answer, and warn the user.

    Without this the library tries each of two files six times, over half a minute. Call this function before the
    library is imported, because the library reads its environment only then.
    """
    address = os.environ.get("HF_ENDPOINT") or _ADDRESS
    if not os.environ.get("HF_HUB_OFFLINE") and not _answers(address):
        warn(f"{address} does not answer: only checkpoints that were fetched before can be loaded")
        os.environ["HF_HUB_OFFLINE"] = "1"


def _answers(address: str) -> bool:
    """Return whether the address answers at all. The Hub's library itself reports what is wrong with an answer."""
    try:
        request = Request(address, method="HEAD")  # noqa: S310 # the user's own setting
        urlopen(request, timeout=_ANSWERS_WITHIN_S).close()  # noqa: S310
    except (HTTPException, HTTPError, ValueError):
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True
