"""Copies of a Python package under a unique name, so that its modules collide with no module of an application.

A model version carries this project's code. A program that loads the version may have a package of the same name, or
load two versions with different code. The name of a copy holds a digest of the code: different code gets different
names, and equal code gets the same name.
"""

import re
import shutil
from pathlib import Path

from src.core.files import folder_digest


def vendor(package: Path, folder: Path, prefix: str) -> str:
    """Copy the modules of a package into `folder` as `<prefix>_<digest>`, and rename the package in their imports.

    The package must import its modules as `from <package>.<module> import ...` and in no other way. Only `.py` files
    are copied: code that a version runs reads no templates.

    Returns:
        The name of the copy.
    """
    copy = folder / package.name
    for path in package.rglob("*.py"):
        target = copy / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    name = f"{prefix}_{folder_digest(copy)}"
    own_imports = re.compile(rf"^(\s*from ){re.escape(package.name)}(?=[. ])", re.MULTILINE)
    for path in copy.rglob("*.py"):
        # Bytes keep the line ends as they are.
        code = path.read_bytes().decode("utf-8")
        path.write_bytes(own_imports.sub(rf"\g<1>{name}", code).encode("utf-8"))
    copy.rename(folder / name)
    return name
