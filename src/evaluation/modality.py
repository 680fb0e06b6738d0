"""Which half of a post a model goes by: what each half is worth to it, and which it follows where they disagree."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from scipy.stats import binomtest

from src.core.estimates import (
    AblationResult,
    AgreementAccuracy,
    Disagreement,
    HashtagEffect,
    LabelAdherence,
    ShuffledImages,
)
from src.core.labels import NEUTRAL, TONES
from src.core.records import Interval, Post, Prediction
from src.data.ablations import BOTH
from src.data.captions import without_hashtags
from src.evaluation.comparison import compare, verdicts
from src.evaluation.intervals import CONFIDENCE, RESAMPLES, intervals

LabelPair = tuple[str, str]


def ablation_results(
    found: Mapping[str, Sequence[Prediction]],
    group_of: Mapping[str, str],
    clean: Collection[str],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, AblationResult]:
    """What came of each condition, from predictions of the same posts in the same order.

    Args:
        found: the predictions by condition, both halves among them.
        group_of: the group of near-duplicates that each post belongs to, by id.
        clean: the ids of posts without a near-duplicate in another part.
        seed: equal seeds give equal intervals.
        resamples: how often groups are drawn.
    """
    changes = {
        name: compare(rows, found[BOTH], group_of, seed, resamples) for name, rows in found.items() if name != BOTH
    }
    told = dict(zip(changes, verdicts(list(changes.values())), strict=True))
    made = {}
    for name, rows in found.items():
        unseen = [row for row in rows if row.id in clean]
        figures = intervals(rows, group_of, seed, resamples)
        leak_free = intervals(unseen, group_of, seed, resamples) if unseen else {}
        made[name] = AblationResult(figures, leak_free, changes.get(name), told.get(name))
    return made


def shuffling_effect(posts: Sequence[Post], givers: Sequence[Post], shuffled: Sequence[Prediction]) -> ShuffledImages:
    """What came of the shuffled pictures of posts, from the posts that they are from; all in the same order."""
    pairs = [(post.label, giver.label) for post, giver in zip(posts, givers, strict=True)]
    other = [(pair, row.predicted) for pair, row in zip(pairs, shuffled, strict=True) if pair[0] != pair[1]]
    torn = label_adherence([pair for pair, _ in other], [tone for _, tone in other])
    return ShuffledImages(1 - len(other) / len(pairs), torn)


def hashtag_effect(
    posts: Sequence[Post],
    both: Sequence[Prediction],
    without: Sequence[Prediction],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> HashtagEffect:
    """What hashtags are worth, from predictions of posts with and without them, all in the same order."""
    rest_of = {post.id: rest for post in posts if (rest := without_hashtags(post.caption)) != post.caption}
    before, after = ([row for row in rows if row.id in rest_of] for rows in (both, without))
    change = compare(after, before, group_of, seed, resamples) if rest_of else None
    return HashtagEffect(len(rest_of), sum(not rest for rest in rest_of.values()), change)


def disagreeing_posts(posts: Sequence[Post], part_of: Mapping[str, str]) -> list[Post]:
    """The posts whose text and image have different labels, and which no training or choice has seen.

    Those are the ones of the test part and the ones that no part contains, for want of a label.
    """
    return [post for post in posts if post.text_label != post.image_label and part_of.get(post.id, "test") == "test"]


def label_adherence(
    pairs: Sequence[LabelPair], predicted: Sequence[str], all_predicted: Sequence[str] = ()
) -> LabelAdherence | None:
    """Which label predictions follow; None of no posts.

    Args:
        pairs: the text's label and the image's, which differ.
        predicted: the tone that is predicted of each.
        all_predicted: the predictions that are dealt out at random in comparison, if not those.
    """
    n, dealt = len(pairs), Counter(all_predicted or predicted)
    if not n:
        return None
    counts = [sum(tone == pair[half] for pair, tone in zip(pairs, predicted, strict=True)) for half in (0, 1)]
    text, image = (_share(count, n) for count in counts)
    expected = [sum(dealt[pair[half]] for pair in pairs) / n / dealt.total() for half in (0, 1)]
    shares = {"text": expected[0], "image": expected[1], "neither": 1 - sum(expected)}
    return LabelAdherence(n, text, image, _share(n - sum(counts), n), shares)


def adherence_by_pair(pairs: Sequence[LabelPair], predicted: Sequence[str]) -> dict[str, LabelAdherence]:
    """The same for each pair of labels that occurs; its name has the text's first, as in `positive, neutral`."""
    tones_of: dict[LabelPair, list[str]] = {(text, image): [] for text in TONES for image in TONES}
    for pair, tone in zip(pairs, predicted, strict=True):
        tones_of[pair].append(tone)
    found = {
        ", ".join(pair): label_adherence([pair] * len(tones), tones, all_predicted=predicted)
        for pair, tones in tones_of.items()
    }
    return {name: each for name, each in found.items() if each}


def accuracy_by_agreement(
    posts: Sequence[Post],
    found: Mapping[str, Sequence[Prediction]],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, AgreementAccuracy]:
    """The accuracy on posts whose two labels `agree`, and on those where they `disagree`; no entry without posts.

    Args:
        posts: labelled ones.
        found: predictions of them, by condition.
        group_of: the group of near-duplicates that each post belongs to, by id.
        seed: equal seeds give equal intervals.
        resamples: how often groups are drawn.
    """
    alike = {post.id for post in posts if post.text_label == post.image_label}
    ids = {"agree": alike, "disagree": {post.id for post in posts} - alike}
    made = {}
    for kind in (kind for kind in ids if ids[kind]):
        chosen = {name: [row for row in rows if row.id in ids[kind]] for name, rows in found.items()}
        accuracy = {name: intervals(rows, group_of, seed, resamples)["accuracy"] for name, rows in chosen.items()}
        made[kind] = AgreementAccuracy(len(ids[kind]), accuracy)
    return made


def disagreement(
    posts: Sequence[Post], found: Mapping[str, Sequence[Prediction]], clean: Collection[str]
) -> Disagreement:
    """Which of the two labels of posts the predictions follow.

    Args:
        posts: those with two labels.
        found: predictions of them, by condition, in their order.
        clean: the ids of posts without a near-duplicate in train or val.
    """
    pair_of = {post.id: (post.text_label, post.image_label) for post in posts}

    def follows(ids: Collection[str]) -> dict[str, LabelAdherence]:
        kept = {name: [row for row in rows if row.id in ids] for name, rows in found.items()}
        made = {name: _following(rows, pair_of) for name, rows in kept.items()}
        return {name: each for name, each in made.items() if each}

    pairs, neutral = list(pair_of.values()), {key for key, pair in pair_of.items() if NEUTRAL in pair}
    return Disagreement(
        posts=len(posts),
        follows=follows(pair_of),
        leak_free=follows(clean),
        neutral=follows(neutral),
        opposite=follows(pair_of.keys() - neutral),
        by_pair={name: adherence_by_pair(pairs, [row.predicted for row in rows]) for name, rows in found.items()},
    )


def _following(predictions: Sequence[Prediction], pair_of: Mapping[str, LabelPair]) -> LabelAdherence | None:
    return label_adherence([pair_of[row.id] for row in predictions], [row.predicted for row in predictions])


def _share(count: int, n: int) -> Interval:
    found = binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(count / n, float(found.low), float(found.high))
