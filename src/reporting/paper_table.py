"""The table of the study's experiments: `reproduce` writes it, and the report shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from src.core.files import read_table, write_table
from src.core.labels import TONES
from src.core.paper import RECIPES, Recipe
from src.core.paths import OUTPUTS

FOLDER = OUTPUTS / "reproduce"
TABLE = FOLDER / "recipes.csv"
# Of each, the title of its column.
HEADLINE = {"accuracy": "accuracy", "macro_f1": "macro-F1", "weighted_f1": "weighted F1"}
SCORE_TITLES = {**HEADLINE, **{f"f1_{tone}": f"F1 {tone}" for tone in TONES}}
# What has to be beaten by whoever claims that pictures or pretraining help: words of the captions alone.
TO_BEAT = "tfidf"
_OURS = (*SCORE_TITLES, "accuracy_low", "accuracy_high")
_RECIPES = {recipe.name: recipe for recipe in RECIPES}


@dataclass(frozen=True, kw_only=True)
class PaperTableRow:
    """A recipe, or a baseline that it is compared with.

    Attributes:
        name: that of the recipe, or of the baseline.
        posts: how many it was judged on.
        scores: by the names of `SCORE_TITLES`, and the ends of the accuracy's interval; empty after a failure.
        scale, weights: of a recipe, the weights it was run with.
        failure: why there are no scores.
    """

    name: str
    posts: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    scale: str = ""
    weights: str = ""
    failure: str = ""

    @property
    def recipe(self) -> Recipe | None:
        """None for a baseline."""
        return _RECIPES.get(self.name)

    @property
    def published(self) -> Mapping[str, float]:
        """What the study reports."""
        return self.recipe.published if self.recipe else {}


def write_rows(rows: Sequence[PaperTableRow]) -> None:
    """Write the table."""
    columns = ["name", "scale", "weights", "posts", *_OURS, *(f"published_{each}" for each in SCORE_TITLES), "failure"]
    content = [
        {
            **{name: getattr(row, name) for name in ("name", "scale", "weights", "posts", "failure")},
            **{name: row.scores.get(name) for name in _OURS},
            **{f"published_{name}": row.published.get(name) for name in SCORE_TITLES},
        }
        for row in rows
    ]
    write_table(TABLE, content, columns)


def read_rows() -> list[PaperTableRow]:
    """Read the table.

    Raises:
        UserError: `reproduce` has not run.
    """
    return [
        PaperTableRow(
            name=row["name"],
            posts=int(row["posts"]),
            scores={name: float(row[name]) for name in _OURS if row[name]},
            scale=row["scale"],
            weights=row["weights"],
            failure=row["failure"],
        )
        for row in read_table(TABLE)
    ]


@dataclass(frozen=True)
class PaperSection:
    """What the report shows of the experiments.

    Attributes:
        recipes: their rows; none where none was run.
        baselines: the rows below them.
        notes: what was assumed where the study is silent, each with the mark that its recipes bear.
        elsewhere: recipes judged on other posts than the test part.
        to_beat: the macro-F1 of TF-IDF, None without a baseline.
        not_above: recipes that are not above it.
    """

    recipes: Sequence[PaperTableRow]
    baselines: Sequence[PaperTableRow]
    notes: Mapping[str, int]
    elsewhere: Sequence[str]
    to_beat: float | None
    not_above: Sequence[str]

    def marks(self, recipe: Recipe) -> list[int]:
        """Those of the notes on a recipe."""
        return sorted(self.notes[each] for each in recipe.assumed)


def paper_section() -> PaperSection:
    """The section, from the table.

    Raises:
        UserError: `reproduce` has not run.
    """
    rows = read_rows()
    recipes = [row.recipe for row in rows if row.recipe]
    assumed = dict.fromkeys(each for recipe in recipes for each in recipe.assumed)
    least, names = not_above(rows) or (None, [])
    return PaperSection(
        recipes=[row for row in rows if row.recipe],
        baselines=[row for row in rows if not row.recipe],
        notes={each: number for number, each in enumerate(assumed, 1)},
        elsewhere=[recipe.name for recipe in recipes if recipe.num_posts],
        to_beat=least,
        not_above=names,
    )


def not_above(rows: Sequence[PaperTableRow]) -> tuple[float, list[str]] | None:
    """The macro-F1 of TF-IDF, and the recipes that are not above it. None where it is not among the rows."""
    for row in rows:
        if row.name == TO_BEAT:
            least = row.scores["macro_f1"]
            return least, [each.name for each in rows if each.recipe and each.scores.get("macro_f1", 1.0) <= least]
    return None
