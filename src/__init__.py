"""A reproducible search for LoRA-tuned vision-language classifiers of posts.

Environment variables keep transformers and the Hub's library from extra requests. Python imports this package before
any of its modules, and so before the Hub's library reads its environment.
"""

import os

# CLIP's checkpoint is a `.bin` file. For such files transformers starts a thread that looks for a converted copy: it
# asks a conversion service, or fetches another commit than the pinned one.
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
# With its first request the Hub's library fetches a list, by which it reports the program that started it to the Hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
