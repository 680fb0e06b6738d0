"""The halves of a post that a model relies on: scores of ablations, and the label that predictions follow."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from src.core.estimates import (
    AblationResult,
    AgreementAccuracy,
    Disagreement,
    HashtagEffect,
    LabelAdherence,
    ShuffledImages,
)
from src.core.labels import NEUTRAL
from src.core.records import Post, Prediction, labels_of
from src.data.ablations import BOTH
from src.data.captions import without_hashtags
from src.evaluation.comparison import compare, verdicts
from src.evaluation.intervals import RESAMPLES, intervals, share_interval

# The text's label and the image's label.
LabelPair = tuple[str, str]


def ablation_results(
    predictions: Mapping[str, Sequence[Prediction]],
    group_of: Mapping[str, str],
    clean: Collection[str],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, AblationResult]:
    """Score each ablation and compare it with both halves.

    Args:
        predictions: of the same posts in the same order, by ablation, both halves among them.
        group_of: the group of near-duplicates of each post, by id.
        clean: the ids of posts without a near-duplicate in another part.
        seed: equal seeds give equal intervals.
        resamples: the number of bootstrap resamples.
    """
    changes = {
        name: compare(rows, predictions[BOTH], group_of, seed, resamples)
        for name, rows in predictions.items()
        if name != BOTH
    }
    verdict_of = dict(zip(changes, verdicts(list(changes.values())), strict=True))
    results = {}
    for name, rows in predictions.items():
        clean_rows = [row for row in rows if row.id in clean]
        figures = intervals(rows, group_of, seed, resamples)
        leak_free = intervals(clean_rows, group_of, seed, resamples) if clean_rows else {}
        results[name] = AblationResult(figures, leak_free, changes.get(name), verdict_of.get(name))
    return results


def shuffling_effect(posts: Sequence[Post], givers: Sequence[Post], shuffled: Sequence[Prediction]) -> ShuffledImages:
    """Measure which label the predictions follow when posts get the images of other posts.

    Args:
        posts: the posts, with the captions that were shown.
        givers: the post whose image each of them got, in the same order.
        shuffled: the predictions, in the same order.
    """
    pairs = [(post.label, giver.label) for post, giver in zip(posts, givers, strict=True)]
    other = [(pair, row.predicted) for pair, row in zip(pairs, shuffled, strict=True) if pair[0] != pair[1]]
    adherence = label_adherence([pair for pair, _ in other], [label for _, label in other])
    return ShuffledImages(1 - len(other) / len(pairs), adherence)


def hashtag_effect(
    posts: Sequence[Post],
    both: Sequence[Prediction],
    without: Sequence[Prediction],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> HashtagEffect:
    """Compare predictions with and without hashtags.

    Args:
        posts: the posts, some of them with hashtags.
        both: predictions with hashtags, in the same order.
        without: predictions without hashtags, in the same order.
        group_of: the group of near-duplicates of each post, by id.
        seed: equal seeds give equal intervals.
        resamples: the number of bootstrap resamples.
    """
    rest_of = {post.id: rest for post in posts if (rest := without_hashtags(post.caption)) != post.caption}
    before = [row for row in both if row.id in rest_of]
    after = [row for row in without if row.id in rest_of]
    change = compare(after, before, group_of, seed, resamples) if rest_of else None
    return HashtagEffect(len(rest_of), sum(not rest for rest in rest_of.values()), change)


def disagreeing_posts(posts: Sequence[Post], part_of: Mapping[str, str], trained: Collection[str]) -> list[Post]:
    """Select the posts with two different labels that no training and no choice has seen.

    These are posts of the test part and posts of no part, which the protocol gives no label. `trained` are the ids of
    posts in no part on which `unimodal_labels` has trained.
    """
    unseen = {post.id for post in posts if part_of.get(post.id, "test") == "test"} - set(trained)
    return [post for post in posts if post.text_label != post.image_label and post.id in unseen]


def label_adherence(
    pairs: Sequence[LabelPair], predicted: Sequence[str], all_predicted: Sequence[str] = ()
) -> LabelAdherence | None:
    """Measure how often predictions equal the text's label, the image's or neither; None without posts.

    Args:
        pairs: the text's label and the image's label of each post, which differ.
        predicted: the predicted label of each post.
        all_predicted: the predictions that the random baseline draws from; `predicted` if empty.
    """
    n = len(pairs)
    if not n:
        return None
    count_of = Counter(all_predicted or predicted)
    counts = [sum(label == pair[half] for pair, label in zip(pairs, predicted, strict=True)) for half in (0, 1)]
    text, image = (share_interval(count, n) for count in counts)
    expected = [sum(count_of[pair[half]] for pair in pairs) / n / count_of.total() for half in (0, 1)]
    shares = {"text": expected[0], "image": expected[1], "neither": 1 - sum(expected)}
    return LabelAdherence(n, text, image, share_interval(n - sum(counts), n), shares)


def adherence_by_pair(
    pairs: Sequence[LabelPair], predicted: Sequence[str], labels: Sequence[str]
) -> dict[str, LabelAdherence]:
    """Measure `label_adherence` for each pair of labels that occurs, keyed text first, as in "positive, neutral".

    The pairs are in the order of `labels`.
    """
    predicted_of: dict[LabelPair, list[str]] = {(text, image): [] for text in labels for image in labels}
    for pair, label in zip(pairs, predicted, strict=True):
        predicted_of[pair].append(label)
    adherence_of = {
        ", ".join(pair): label_adherence([pair] * len(answers), answers, all_predicted=predicted)
        for pair, answers in predicted_of.items()
    }
    return {name: adherence for name, adherence in adherence_of.items() if adherence}


def accuracy_by_agreement(
    posts: Sequence[Post],
    predictions: Mapping[str, Sequence[Prediction]],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, AgreementAccuracy]:
    """Compute the accuracy on posts whose labels `agree`, and on posts whose labels `disagree`; no entry without posts.

    Args:
        posts: labelled posts.
        predictions: of these posts, by ablation.
        group_of: the group of near-duplicates of each post, by id.
        seed: equal seeds give equal intervals.
        resamples: the number of bootstrap resamples.
    """
    agreeing = {post.id for post in posts if post.text_label == post.image_label}
    ids_of = {"agree": agreeing, "disagree": {post.id for post in posts} - agreeing}
    accuracies = {}
    for kind, ids in ids_of.items():
        if not ids:
            continue
        accuracy = {
            name: intervals([row for row in rows if row.id in ids], group_of, seed, resamples)["accuracy"]
            for name, rows in predictions.items()
        }
        accuracies[kind] = AgreementAccuracy(len(ids), accuracy)
    return accuracies


def disagreement(
    posts: Sequence[Post], predictions: Mapping[str, Sequence[Prediction]], clean: Collection[str]
) -> Disagreement:
    """Measure which of a post's two labels the predictions follow.

    Args:
        posts: posts with two different labels.
        predictions: of these posts in the same order, by ablation.
        clean: the ids of posts without a near-duplicate in train or val.
    """
    pair_of = {post.id: (post.text_label, post.image_label) for post in posts}

    def follows(ids: Collection[str]) -> dict[str, LabelAdherence]:
        adherence_of = {}
        for name, rows in predictions.items():
            kept = [row for row in rows if row.id in ids]
            adherence_of[name] = label_adherence([pair_of[row.id] for row in kept], [row.predicted for row in kept])
        return {name: adherence for name, adherence in adherence_of.items() if adherence}

    pairs = list(pair_of.values())
    neutral = {key for key, pair in pair_of.items() if NEUTRAL in pair}
    return Disagreement(
        posts=len(posts),
        follows=follows(pair_of),
        leak_free=follows(clean),
        neutral=follows(neutral),
        opposite=follows(pair_of.keys() - neutral) if neutral else {},
        by_pair={
            name: adherence_by_pair(pairs, [row.predicted for row in rows], labels_of(rows))
            for name, rows in predictions.items()
        },
    )
