"""Words for the made-up posts: every phrase is invented, and so is every handle and link."""

import random

from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE

PHRASES = {
    POSITIVE: (
        "so grateful for these people",
        "laughing all the way home",
        "what a gorgeous view",
        "the cake was delicious",
        "finally together again, big hugs",
        "we won and I am still smiling",
        "best birthday surprise ever",
        "loving every minute of it",
        "a perfect lazy afternoon with friends",
        "proud of this wonderful team",
        "she said yes, we are celebrating",
        "sunshine and good music make me smile",
    ),
    NEGATIVE: (
        "I can't stop crying",
        "the storm ruined everything",
        "lost my keys and my patience",
        "so tired of being lonely",
        "another awful night without sleep",
        "they lied again and I am furious",
        "the screen is broken, of course",
        "stuck in the cold rain for hours",
        "worst service I have ever had",
        "my heart hurts since the funeral",
        "sick in bed and scared of tomorrow",
        "what a terrible, ugly mess",
    ),
    NEUTRAL: (
        "the timetable for next week is online",
        "here is the map of the new route",
        "notes from the second session",
        "the library opens at nine",
        "figure 3 shows the monthly numbers",
        "parking is behind the building",
        "version two of the form is available",
        "the meeting moved to room 12",
        "a list of the items in the catalogue",
        "the report has forty pages",
        "please bring a pen and your badge",
        "the bus to the station leaves at six",
    ),
}
TAGS = {
    POSITIVE: ("#sunshine", "#blessed", "#goodvibes", "#party", "#love"),
    NEGATIVE: ("#heartbroken", "#badday", "#storm", "#fail", "#tears"),
    NEUTRAL: ("#agenda", "#info", "#update", "#howto", "#office"),
}
SHARED_TAGS = ("#photo", "#today", "#weekend", "#city", "#instapic", "#travel", "#family", "#nowplaying")
EMOJI = {POSITIVE: "😀🌞🎉💛", NEGATIVE: "😢💔🌧😠", NEUTRAL: "📎📅🗺📌"}
OPENERS = (
    "this morning in Zürich:",
    "at the café —",
    "Monday again:",
    "from my window,",
    "for 5 € at the market:",
    "it\u2019s official:",
    "last night in São Paulo,",
    "walking by the river,",
    "you know what?",
    "dear diary,",
    "just now:",
    "",
    "",
    "",
)
HANDLES = ("@sample_kite", "@madeup_otter", "@nobody_0042", "@drawn_lamp", "@paper_tram")


def write_caption(tone: str, rng: random.Random) -> str:
    """A caption of one line, in the manner of a tweet."""
    words = [rng.choice(OPENERS), *rng.sample(PHRASES[tone], rng.choice((1, 2, 2)))]
    if rng.random() < 0.6:
        words.append(rng.choice(TAGS[tone]))
    words.extend(rng.sample(SHARED_TAGS, rng.choice((0, 1, 2))))
    if rng.random() < 0.3:
        words.append(rng.choice(EMOJI[tone]))
    if rng.random() < 0.7:
        words.append(make_link(rng))
    if rng.random() < 0.3:
        words.insert(0, f"RT {rng.choice(HANDLES)}:")
    return " ".join(word for word in words if word)


def make_link(rng: random.Random) -> str:
    """A made-up short link: ten random characters."""
    return "http://t.co/" + "".join(rng.choices("abcdefghkmnpqrstuvwxyzABCDEFGHKLMN23456789", k=10))
