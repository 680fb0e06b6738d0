from pathlib import Path

from click.testing import CliRunner

from src.data.sample import make_sample
from src.sample import main


def test_it_writes_the_files_and_writes_them_again(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "sample"
    for _ in range(2):
        result = CliRunner().invoke(main, ["--out", str(out), "--seed", "3"])
        assert result.exit_code == 0, result.output
    written = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert written == make_sample(seed=3)


def test_it_mixes_with_nothing_and_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path} has 1 other files in it, such as holiday.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
