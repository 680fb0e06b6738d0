"""Stage `modality`: which half of a post the tuned model goes by, the picture or the caption.

python -m src.modality --model clip

The test posts are judged again with one half hidden or changed, and so are the posts whose text and image were
labelled differently. src/data/ablations.py says what is shown, src/evaluation/modality.py what is made of the answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from src.cli.options import command, model_option
from src.cli.output import progress, say, table, warn
from src.core.config import Params, load_params
from src.core.errors import InfeasibleAnalysis, UserError
from src.core.files import write_bytes, write_json, write_table
from src.core.labels import TONES
from src.core.paths import FINGERPRINTS, GROUPS, POSTS, SPLIT, stage_folder
from src.core.records import (
    ADAPTER_DIGEST,
    Post,
    Prediction,
    leak_free,
    read_fingerprints,
    read_groups,
    read_posts,
    read_predictions,
    read_split,
    write_predictions,
)
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from src.data.ablations import AblatedPost
    from src.training.workspace import Workspace

# By how much a probability may differ from what `evaluate` found: the cache was filled in batches of other posts, which
# costs a digit, and bfloat16 has but 8 bits.
ALLOWED = {"float32": 1e-3, "bfloat16": 0.2}
HALVES = ("text", "image", "neither")


@dataclass(frozen=True)
class ModalityPosts:
    """The posts that the model is asked about.

    Attributes:
        test: the test part.
        givers: for each of them the post whose picture it gets when shuffled; empty where there is none to give.
        omitted: why a condition is left out, by its name.
        disagreeing: the posts with two labels, of the test part and of no part.
        group_of: the group of near-duplicates of each labelled post, by id.
        clean: the ids of those, of either, that have no near-duplicate in train or val.
    """

    test: Sequence[Post]
    givers: Sequence[Post]
    omitted: Mapping[str, str]
    disagreeing: Sequence[Post]
    group_of: Mapping[str, str]
    clean: set[str]


@dataclass(frozen=True)
class Answers:
    """What the model says of them.

    Attributes:
        test: of the test part, by condition.
        disagreeing: of the posts with two labels, by what is shown of them: both halves, text, image.
        cosine_of: the base's alignment of test posts that have words, by id; empty where it knows no such thing.
    """

    test: Mapping[str, Sequence[Prediction]]
    disagreeing: Mapping[str, Sequence[Prediction]]
    cosine_of: Mapping[str, float]


@command(example="python -m src.modality --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Judge the test posts with text or picture alone, with another's picture, and without hashtags."""
    params = load_params()
    from src.core.outputs import read_trained
    from src.training.workspace import open_workspace

    trained = read_trained(model)
    evaluated = read_predictions(stage_folder("evaluate", model) / "predictions.csv")
    workspace = open_workspace(model)
    asked = modality_posts(workspace.parts["test"], params.seed)
    answers = ask(workspace, params, asked, evaluated)
    summary = {**summarise(asked, answers, params.seed), ADAPTER_DIGEST: trained.digest}
    _write(workspace, params, asked, answers, summary)
    _tell(model, params, summary)


def modality_posts(test: Sequence[Post], seed: int) -> ModalityPosts:
    """The posts that the model is asked about, from what `prepare` and `split` wrote."""
    from src.data.ablations import SHUFFLED, shuffled_images
    from src.data.duplicates import find_duplicates
    from src.evaluation.modality import disagreeing_posts

    posts, part_of, group_of = read_posts(POSTS), read_split(SPLIT), read_groups(GROUPS)
    # The groups of `split` are of labelled posts alone.
    all_groups = find_duplicates(posts, read_fingerprints(FINGERPRINTS)).groups
    seen = {all_groups[key] for key, part in part_of.items() if part != "test"}
    torn = disagreeing_posts(posts, part_of)
    clean = {post.id for post in torn if post.id not in part_of and all_groups[post.id] not in seen}
    givers, omitted = [], {}
    try:
        givers = shuffled_images(test, group_of, seed)
    except InfeasibleAnalysis as error:
        omitted[SHUFFLED] = str(error)
    return ModalityPosts(test, givers, omitted, torn, group_of, clean | leak_free(part_of, group_of))


def ask(workspace: "Workspace", params: Params, asked: ModalityPosts, evaluated: Sequence[Prediction]) -> Answers:
    """What the model says of the posts.

    Raises:
        UserError: of the test part, shown as it is, it does not say what `evaluate` found.
    """
    from src.data.ablations import BOTH, conditions, halves
    from src.training.adapter import saved_adapter
    from src.training.inference import logits_uncached, predictions_of

    cosine_of = _alignment(workspace, params)  # while no adapter is on, so that it is the base's
    model, batch_size, known = workspace.model, params.evaluate.batch_size, {post.id for post in asked.test}
    rest = [post for post in asked.disagreeing if post.id not in known]
    shown, rest_shown = conditions(asked.test, asked.givers), halves(rest)
    total = sum(map(len, (*shown.values(), *rest_shown.values())))
    with (
        saved_adapter(model, stage_folder("train", model.spec.name) / "adapter"),
        progress(total, f"{model.spec.name}: modality", "posts") as bar,
    ):

        def answer(posts: Sequence[Post], views: "Sequence[AblatedPost]") -> list[Prediction]:
            images, captions = [view.image for view in views], [view.caption for view in views]
            return predictions_of(posts, logits_uncached(model, images, captions, batch_size, bar.advance))

        found = {BOTH: answer(asked.test, shown.pop(BOTH))}
        _require_evaluated(found[BOTH], evaluated, str(model.backbone.dtype).removeprefix("torch."))
        found |= {name: answer(asked.test, views) for name, views in shown.items()}
        others = {name: answer(rest, views) for name, views in rest_shown.items()}
    torn = {name: _in_order(asked.disagreeing, [*found[name], *rows]) for name, rows in others.items()}
    return Answers(found, torn, cosine_of)


def _alignment(workspace: "Workspace", params: Params) -> dict[str, float]:
    from src.training.inference import alignments

    test = workspace.data("test", params.encode.batch_size)
    found = alignments(workspace.model, test, params.evaluate.batch_size)
    if found is None:
        return {}
    return {post.id: cosine for post, cosine in zip(test.posts, found, strict=True) if post.caption.strip()}


def _in_order(posts: Sequence[Post], predictions: Sequence[Prediction]) -> list[Prediction]:
    found = {row.id: row for row in predictions}
    return [found[post.id] for post in posts]


def _require_evaluated(found: Sequence[Prediction], evaluated: Sequence[Prediction], dtype: str) -> None:
    if [(row.id, row.actual) for row in found] != [(row.id, row.actual) for row in evaluated]:
        raise UserError("outputs/evaluate/ holds the predictions of other posts: run `dvc repro` first")
    pairs = zip(found, evaluated, strict=True)
    most = max(abs(getattr(a, tone) - getattr(b, tone)) for a, b in pairs for tone in TONES)
    if most > ALLOWED[dtype]:
        raise UserError(
            f"outputs/evaluate/ holds the predictions of another adapter (up to {most:.3f} off): run `dvc repro` first"
        )


def summarise(asked: ModalityPosts, answers: Answers, seed: int) -> dict[str, Any]:
    """What the answers say, as modality.json has it; the dataclasses of src/analysis say what the keys mean."""
    from src.data.ablations import BOTH, NO_HASHTAGS, SHUFFLED
    from src.evaluation import modality
    from src.evaluation.alignment import alignment_correlation

    test, found, group_of = asked.test, answers.test, asked.group_of
    outcomes = modality.ablation_results(found, group_of, asked.clean, seed)
    agreement = modality.accuracy_by_agreement(test, found, group_of, seed)
    aligned = alignment_correlation(answers.cosine_of, found[BOTH], group_of, seed)
    return {
        "posts": len(test),
        "leak_free_posts": sum(post.id in asked.clean for post in test),
        "conditions": {name: asdict(each) for name, each in outcomes.items()},
        "omitted": asked.omitted,
        "shuffled": asdict(modality.shuffling_effect(test, asked.givers, found[SHUFFLED]))
        if SHUFFLED in found
        else None,
        "hashtags": asdict(modality.hashtag_effect(test, found[BOTH], found[NO_HASHTAGS], group_of, seed)),
        "by_agreement": {name: asdict(each) for name, each in agreement.items()},
        "disagreement": asdict(modality.disagreement(asked.disagreeing, answers.disagreeing, asked.clean)),
        "alignment": asdict(aligned) if aligned else None,
    }


def metrics_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a summary that two runs are compared by, each under one name, such as text_macro_f1."""
    conditions = {name.replace("-", "_"): each for name, each in summary["conditions"].items()}
    changes = {name: each["change"]["accuracy"] for name, each in conditions.items() if each["change"]}
    follows, aligned = summary["disagreement"]["follows"], summary["alignment"]
    found = {
        f"{name}_{figure}": each["figures"][figure]["value"]
        for figure in ("accuracy", "macro_f1")
        for name, each in conditions.items()
    }
    found |= {f"{name}_accuracy_change": each["value"] for name, each in changes.items()}
    if follows:
        found |= {f"follows_{half}": follows["both"][half]["value"] for half in HALVES}
    if aligned and aligned["point_biserial"]:
        found["alignment_point_biserial"] = aligned["point_biserial"]["value"]
    return found


def _write(
    workspace: "Workspace", params: Params, asked: ModalityPosts, answers: Answers, summary: Mapping[str, Any]
) -> None:
    """The stage's files, and its run."""
    from src.tracking.client import parts_read
    from src.tracking.run_logging import open_tracker, run_tags

    model = workspace.model.spec.name
    folder, metrics = stage_folder("modality", model), metrics_of(summary)
    for name in (*answers.test, *asked.omitted):
        write_predictions(folder / f"{name}.csv", answers.test.get(name, ()))
    write_table(folder / "disagreement.csv", *_disagreeing_rows(asked.disagreeing, answers.disagreeing))
    cosines = [{"id": key, "cosine": cosine} for key, cosine in answers.cosine_of.items()]
    write_table(folder / "alignment.csv", cosines, ("id", "cosine"))
    write_json(folder / "metrics.json", metrics)
    write_bytes(folder / "conditions.png", _picture(model, summary))
    write_json(folder / "modality.json", summary)
    tags = {**run_tags("modality", workspace.facts(), params.notice), ADAPTER_DIGEST: summary[ADAPTER_DIGEST]}
    with open_tracker(model).run("modality", tags=tags) as run:
        run.inputs(parts_read("test"))
        run.metrics(metrics)
        run.folder(folder, "modality")


def _disagreeing_rows(
    posts: Sequence[Post], found: Mapping[str, Sequence[Prediction]]
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    """A row for each post with two labels, and the names of the columns."""
    columns = ("id", "text_label", "image_label", "predicted", *TONES, "predicted_from_text", "predicted_from_image")
    rows = []
    for post, both, text, image in zip(posts, found["both"], found["text"], found["image"], strict=True):
        known = {"text_label": post.text_label, "image_label": post.image_label, **asdict(both)}
        alone = {"predicted_from_text": text.predicted, "predicted_from_image": image.predicted}
        rows.append({name: value for name, value in {**known, **alone}.items() if name in columns})
    return rows, columns


def _picture(model: str, summary: Mapping[str, Any]) -> bytes:
    from src.core.records import Interval
    from src.reporting.plot_evaluation import forest

    kinds = {"figures": "all test posts", "leak_free": "leak-free"}
    rows = {
        condition: {kinds[kind]: Interval(**each[kind]["accuracy"]) for kind in kinds if each[kind]}
        for condition, each in summary["conditions"].items()
    }
    return forest(rows, {}, "accuracy", f"{model}, tuned, on the test part: with a half hidden or changed")


def _tell(model: str, params: Params, summary: Mapping[str, Any]) -> None:
    rows = []
    for name, each in summary["conditions"].items():
        change = [_words(each["change"]["accuracy"]), each["verdict"]["answer"]] if each["change"] else [None, None]
        rows.append([name, _words(each["figures"]["accuracy"]), each["figures"]["macro_f1"]["value"], *change])
    columns = ["shown", "accuracy", "macro-F1", "change of accuracy", "better than both"]
    table(f"{model}, tuned, on {summary['posts']:,} test posts", columns, rows)
    for name, reason in summary["omitted"].items():
        warn(f"{model}: {name} is left out: {reason}")
    torn = summary["disagreement"]
    for name, each in torn["follows"].items():
        shares = ", ".join(f"{half} {_words(each[half])}" for half in HALVES)
        say(f"Of {torn['posts']:,} posts with two labels, shown {name}, it follows: {shares}")
    say(f"{params.notice}\nFigures: {stage_folder('modality', model) / 'modality.json'}")


def _words(interval: Mapping[str, float | None]) -> str:
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
