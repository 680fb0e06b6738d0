from pathlib import Path

import pytest
from click.testing import CliRunner

from src.core.errors import UserError
from src.data.sample import make_sample, write_sample
from src.sample import main


def test_sample_is_written_twice_alike(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "sample"
    for _ in range(2):
        result = CliRunner().invoke(main, ["--out", str(out), "--seed", "3"])
        assert result.exit_code == 0, result.output
    written = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert written == make_sample(seed=3)


def test_other_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"holiday\.jpg"):
        write_sample(tmp_path, 7)
    assert CliRunner().invoke(main, ["--out", str(tmp_path)]).exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
