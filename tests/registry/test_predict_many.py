from pathlib import Path

import pytest

from src.core.errors import UsageError
from src.data.inputs import Listing
from src.registry.predict_many import AnswerFiles


def test_names_that_no_file_can_have_are_no_inputs(tmp_path: Path) -> None:
    table = tmp_path / "tones.csv"
    table.write_text("of an earlier call")
    images = [tmp_path / name for name in ("n" * 256, "a\0b", "a.jpg")]
    AnswerFiles(table, None).require_no_input(Listing((), (), frozenset(images)))
    with pytest.raises(UsageError, match="--out"):
        AnswerFiles(table, None).require_no_input(Listing((), (), frozenset([*images, table])))
