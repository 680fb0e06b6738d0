"""Table of the paper's experiments: `reproduce` writes it, and the report shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from src.core.files import read_table, write_table
from src.core.labels import TONES
from src.core.paper import RECIPES, Recipe
from src.core.paths import REPRODUCE

TABLE = REPRODUCE / "recipes.csv"
# Titles of columns, by the name of the score.
HEADLINE = {"accuracy": "accuracy", "macro_f1": "macro-F1", "weighted_f1": "weighted F1"}
SCORE_TITLES = {**HEADLINE, **{f"f1_{tone}": f"F1 {tone}" for tone in TONES}}
# TF-IDF reads the captions' words alone. A recipe that does not beat it gains nothing from images or pretraining.
TO_BEAT = "tfidf"
_OURS = (*SCORE_TITLES, "accuracy_low", "accuracy_high")
_RECIPES = {recipe.name: recipe for recipe in RECIPES}


@dataclass(frozen=True, kw_only=True)
class PaperTableRow:
    """A recipe, or a baseline that recipes are compared with."""

    # Of the recipe or the baseline.
    name: str
    # Number of posts that the scores are computed on.
    posts: int = 0
    # By the names of `SCORE_TITLES`, with `accuracy_low` and `accuracy_high`; empty after a failure.
    scores: Mapping[str, float] = field(default_factory=dict)
    # The weights that a recipe was run with; empty for a baseline.
    scale: str = ""
    weights: str = ""
    # The reason if there are no scores.
    failure: str = ""

    @property
    def recipe(self) -> Recipe | None:
        """Return the recipe; None for a baseline."""
        return _RECIPES.get(self.name)

    @property
    def published(self) -> Mapping[str, float]:
        """Return the scores that the paper reports."""
        return self.recipe.published if self.recipe else {}


def write_rows(rows: Sequence[PaperTableRow]) -> None:
    """Write the table, with the paper's scores."""
    columns = ["name", "scale", "weights", "posts", *_OURS, *(f"published_{name}" for name in SCORE_TITLES), "failure"]
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
class TfidfComparison:
    """The recipes with scores on the test part, compared with TF-IDF."""

    # The macro-F1 of TF-IDF.
    to_beat: float
    recipes: Sequence[str]
    # Those whose macro-F1 is not above it.
    not_above: Sequence[str]


@dataclass(frozen=True)
class PaperSection:
    """The report's section on the paper's experiments."""

    # Empty if no recipe was run.
    recipes: Sequence[PaperTableRow]
    baselines: Sequence[PaperTableRow]
    # Assumptions on what the paper does not say, with the numbers that refer to them.
    notes: Mapping[str, int]
    # Recipes that are scored on other posts than the test part.
    elsewhere: Sequence[str]
    # None without TF-IDF or a recipe to compare with it.
    comparison: TfidfComparison | None

    def marks(self, recipe: Recipe) -> list[int]:
        """Return the numbers of the notes on a recipe."""
        return sorted(self.notes[note] for note in recipe.assumed)


def paper_section() -> PaperSection:
    """Build the section from the table.

    Raises:
        UserError: `reproduce` has not run.
    """
    rows = read_rows()
    recipes = [row.recipe for row in rows if row.recipe]
    assumed = dict.fromkeys(note for recipe in recipes for note in recipe.assumed)
    return PaperSection(
        recipes=[row for row in rows if row.recipe],
        baselines=[row for row in rows if not row.recipe],
        notes={note: number for number, note in enumerate(assumed, 1)},
        elsewhere=[recipe.name for recipe in recipes if recipe.num_posts],
        comparison=compare_with_tfidf(rows),
    )


def compare_with_tfidf(rows: Sequence[PaperTableRow]) -> TfidfComparison | None:
    """Compare the recipes that are scored on TF-IDF's posts, the test part, with it; None if there are none."""
    macro_f1 = {row.name: row.scores["macro_f1"] for row in rows if row.scores}
    compared = [row.name for row in rows if row.recipe and row.scores and not row.recipe.num_posts]
    if TO_BEAT not in macro_f1 or not compared:
        return None
    to_beat = macro_f1[TO_BEAT]
    return TfidfComparison(to_beat, compared, [name for name in compared if macro_f1[name] <= to_beat])
