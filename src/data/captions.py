"""What captions are made of: words, hashtags, and what says nothing of either."""

import re
import unicodedata

# Twitter cuts long captions off, within a link too: "http:/…", "htt…".
_LINK = re.compile(r"https?:\S*|\bh(tt?p?s?)?\W*$")
_RETWEET = re.compile(r"\brt\b")
_MENTION = re.compile(r"@\s?\w+")
_WORD = re.compile(r"#?[^\W_]+")
# The # of a character reference (&#39;) or of an address (/#about) begins none.
_HASHTAG = re.compile(r"(?<![&/])[#\N{FULLWIDTH NUMBER SIGN}]\w+")


def normalised(caption: str) -> str:
    """The words and hashtags of a caption in lower case, without links, RT and mentions; what has none is like nothing.

    Letters of any script are words: were only those of English kept, all captions in Russian would be alike.
    """
    text = unicodedata.normalize("NFKC", caption).casefold()
    for noise in (_LINK, _RETWEET, _MENTION):
        text = noise.sub(" ", text)
    return " ".join(_WORD.findall(text))


def hashtags(caption: str) -> set[str]:
    """The hashtags of a caption, in lower case."""
    return {f"#{tag[1:].casefold()}" for tag in _HASHTAG.findall(caption)}


def without_hashtags(caption: str) -> str:
    """The caption without its hashtags, words included; empty where it is nothing else, and as it is without any."""
    rest = _HASHTAG.sub("", caption)
    return caption if rest == caption else " ".join(rest.split())
