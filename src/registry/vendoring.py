"""Copies of a Python package under a name of its own, which an application's modules cannot collide with.

A model version carries this project's code. Another program may have a package of the same name, or load two versions
of different code. The copy's name holds a digest of the code: different code has different names, the same code one.
"""

import re
import shutil
from pathlib import Path

from src.core.files import folder_digest


def vendor(package: Path, folder: Path, prefix: str) -> str:
    """Copy a package into `folder` as `<prefix>_<digest>`; its own imports follow. Return that name.

    The package imports its modules as `from <package>.<module> import ...`, and in no other way.
    """
    copy = folder / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    name = f"{prefix}_{folder_digest(copy)}"
    own_imports = re.compile(rf"^(\s*from ){re.escape(package.name)}(?=[. ])", re.MULTILINE)
    for path in copy.rglob("*.py"):
        # Bytes, for the line ends to stay as they are.
        code = path.read_bytes().decode("utf-8")
        path.write_bytes(own_imports.sub(rf"\g<1>{name}", code).encode("utf-8"))
    copy.rename(folder / name)
    return name
