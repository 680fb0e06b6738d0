"""The interface of all models, and what transformers and the Hub client are kept from by the environment."""

import os

# Where a checkpoint is a `.bin` file, as CLIP's, transformers starts a thread that looks for a converted copy: it asks
# a conversion service, or fetches another commit than the pinned one.
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
# With its first request the Hub's library fetches a list, by which it tells the Hub what program started it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
