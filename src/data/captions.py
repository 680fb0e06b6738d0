"""Parts of captions: words, hashtags, and the links and mentions between them."""

import re
import unicodedata

# Twitter cuts long captions off, even within a link: "http:/…", "htt…".
_LINK = re.compile(r"https?:\S*|\bh(tt?p?s?)?\W*$")
_RETWEET = re.compile(r"\brt\b")
_MENTION = re.compile(r"@\s?\w+")
_WORD = re.compile(r"#?[^\W_]+")
# The # of a character reference (&#39;) or of an address (/#about) begins no hashtag.
_HASHTAG = re.compile(r"(?<![&/])[#\N{FULLWIDTH NUMBER SIGN}]\w+")


def normalised(caption: str) -> str:
    """Return the words and hashtags of a caption in lower case, without links, RT and mentions.

    Letters of any script count. With English letters alone, all captions in Russian would be alike.
    """
    text = unicodedata.normalize("NFKC", caption).casefold()
    for noise in (_LINK, _RETWEET, _MENTION):
        text = noise.sub(" ", text)
    return " ".join(_WORD.findall(text))


def hashtags(caption: str) -> set[str]:
    """Return the hashtags of a caption in lower case."""
    return {f"#{tag[1:].casefold()}" for tag in _HASHTAG.findall(caption)}


def without_hashtags(caption: str) -> str:
    """Return the caption without its hashtags. A caption without hashtags stays as it is."""
    rest = _HASHTAG.sub("", caption)
    return caption if rest == caption else " ".join(rest.split())
