"""The rules that src/ is built by. Each is shown to catch what it is there for."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

# Imports go down only. Folders of one floor do not import each other, and each command is a folder of its own.
COMMAND_FLOOR = 9
FLOORS = {
    "pipeline": 8,
    "experiments": 7,
    **dict.fromkeys(("search", "registry"), 6),
    **dict.fromkeys(("tracking", "sizing"), 5),
    **dict.fromkeys(("training", "reporting"), 4),
    "models": 3,
    **dict.fromkeys(("modeling", "evaluation"), 2),
    **dict.fromkeys(("data", "cli"), 1),
    "core": 0,
}

# One door a library: the folders that may import it ("" is src/ itself). A library that is not here has none.
DOORS = {
    "accelerate": ["training"],
    "captum": ["training"],
    "cleanlab": ["evaluation"],
    "click": ["", "cli"],
    "dvc": ["data"],
    "filelock": ["core"],
    "grpc": ["search"],
    "huggingface_hub": ["registry"],
    "imagehash": ["data"],
    "jinja2": ["reporting"],
    "matplotlib": ["reporting"],
    "mlflow": ["registry", "tracking"],
    "numpy": ["data", "evaluation", "training"],
    "onnx": ["modeling"],
    "optuna": ["search"],
    "pandas": ["registry"],
    "peft": ["training"],
    "PIL": ["data"],
    "pyarrow": ["data"],
    "ray": ["search"],
    "rich": ["cli", "search"],
    "safetensors": ["modeling", "registry", "training"],
    "scipy": ["data", "evaluation", "training"],
    "sklearn": ["data", "evaluation", "training"],
    # Optuna's and MLflow's stores raise its errors.
    "sqlalchemy": ["search", "tracking"],
    "statsmodels": ["evaluation"],
    "tokenizers": ["modeling", "models"],
    "torch": ["modeling", "models", "registry", "sizing", "training"],
    "transformers": ["modeling", "models"],
    "yaml": ["core"],
}
# The type of an image may be named by all that pass one on.
FREE = {"PIL.Image.Image"}

# What no command may load before it knows what it is asked for.
SLOW = [
    "accelerate",
    "captum",
    "cleanlab",
    "dvc",
    "matplotlib",
    "mlflow",
    "optuna",
    "pandas",
    "peft",
    "pyarrow",
    "ray",
    "sklearn",
    "sqlalchemy",
    "statsmodels",
    "torch",
    "transformers",
]

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

# Formats that run code when they are read.
UNSAFE_LIBRARIES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "yaml.load"}
# A keyword that must be said, or must not.
NEEDED_KEYWORDS = {"torch.load": ("weights_only", True)}
UNSAFE_KEYWORDS = {("allow_pickle", True), ("shell", True), ("trust_remote_code", True), ("weights_only", False)}


@dataclass(frozen=True)
class Import:
    """What a module imports: every name with its path, such as torch.nn.Linear."""

    name: str
    line: int


@dataclass(frozen=True)
class Source:
    """A file of src/, with its path from the repository's root."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def says(self, line: int, rule: str) -> str:
        return f"{self.path}:{line}: {rule}"


Rule = Callable[[Source], Iterator[str]]


@cache
def sources() -> list[Source]:
    paths = sorted((ROOT / "src").rglob("*.py"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def floor_of(module: str) -> int:
    return FLOORS.get(module.split(".")[1], COMMAND_FLOOR)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def folder_of(path: str) -> str:
    """The folder of src/ that a file lies in; empty for a command."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else ""


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def imports_go_down(source: Source) -> Iterator[str]:
    if source.name == "src":
        return
    for item in source.imports():
        if not item.name.startswith("src.") or room_of(item.name) == room_of(source.name):
            continue
        if floor_of(item.name) >= floor_of(source.name):
            yield source.says(item.line, f"{room_of(source.name)} must not import {item.name}: imports only go down")


def folders_have_a_floor(source: Source) -> Iterator[str]:
    parts = source.path.split("/")
    if len(parts) > 2 and parts[1] not in FLOORS:
        yield source.says(1, f"src/{parts[1]} stands on no floor: say in FLOORS which is its own")


def libraries_come_in_by_one_door(source: Source) -> Iterator[str]:
    for item in source.imports():
        library = item.name.split(".")[0]
        if library == "src" or library in sys.stdlib_module_names or item.name in FREE:
            continue
        doors = DOORS.get(library, [])
        if folder_of(source.path) not in doors:
            allowed = ", ".join(f"src/{door}" for door in doors) or "no folder yet (DOORS)"
            yield source.says(item.line, f"{library} may be imported only in {allowed}")


def functions_are_short(source: Source) -> Iterator[str]:
    for function in source.functions():
        if length(function) > MAX_FUNCTION_LINES:
            lines = length(function)
            yield source.says(function.lineno, f"{function.name} has {lines} lines, more than {MAX_FUNCTION_LINES}")


def files_are_short(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield source.says(lines, f"the file has {lines} lines, more than {MAX_FILE_LINES}")


def names_say_something(source: Source) -> Iterator[str]:
    for part in source.name.split("."):
        if EMPTY_NAMES.intersection(part.split("_")):
            yield source.says(1, f"{part} says nothing: name the module after what it does")


def nothing_runs_what_it_reads(source: Source) -> Iterator[str]:
    for item in source.imports():
        # An exception class of pickle unpickles nothing.
        if item.name.split(".")[0] in UNSAFE_LIBRARIES and item.name != "pickle.UnpicklingError":
            yield source.says(item.line, f"{item.name} may run code that it reads")
    for call in (node for node in ast.walk(source.tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        said = {(word.arg, word.value.value) for word in call.keywords if isinstance(word.value, ast.Constant)}
        if name in UNSAFE_CALLS:
            yield source.says(call.lineno, f"{name} may run what it is given")
        if name in NEEDED_KEYWORDS and NEEDED_KEYWORDS[name] not in said:
            word, value = NEEDED_KEYWORDS[name]
            yield source.says(call.lineno, f"{name} needs {word}={value}")
        for keyword, unsafe in sorted(said & UNSAFE_KEYWORDS):
            yield source.says(call.lineno, f"{name} must not be called with {keyword}={unsafe!r}")


RULES: list[Rule] = [
    imports_go_down,
    folders_have_a_floor,
    libraries_come_in_by_one_door,
    functions_are_short,
    files_are_short,
    names_say_something,
    nothing_runs_what_it_reads,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    broken = [line for source in sources() for line in rule(source)]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("src/core/a.py", "import src.data.mvsa", "a.py:1: src.core must not import src.data.mvsa"),
        ("src/core/a.py", "import torch", "torch may be imported only in"),
        ("src/data/a.py", "def f() -> None:\n    from src.models import clip", "a.py:2: src.data must not import"),
        ("src/training/a.py", "from src.search.study import Study", "src.training must not import"),
        (
            "src/training/a.py",
            "from mlflow import MlflowClient",
            "mlflow may be imported only in src/registry, src/tracking",
        ),
        ("src/training/a.py", "import click", "click may be imported only in src/, src/cli"),
        ("src/tracking/a.py", "from PIL import ImageFile", "PIL may be imported only in src/data"),
        ("src/tracking/a.py", "import requests", "requests may be imported only in no folder yet"),
        ("src/tune.py", "from src.train import main", "src.tune must not import src.train.main"),
        ("src/tools/a.py", "", "src/tools stands on no floor"),
        ("src/core/train_utils.py", "", "train_utils says nothing"),
        ("src/core/a.py", "\n" * 501, "a.py:501: the file has 501 lines"),
        ("src/core/a.py", "class A:\n  def f(self):\n" + "    ...\n" * 60, "a.py:2: f has 61 lines"),
        ("src/core/a.py", "import pickle", "pickle may run code"),
        ("src/models/a.py", "torch.load(file)", "torch.load needs weights_only=True"),
        ("src/models/a.py", "torch.load(file, weights_only=False)", "must not be called with weights_only=False"),
        ("src/models/a.py", "build(name, trust_remote_code=True)", "must not be called with trust_remote_code=True"),
        ("src/core/a.py", "eval(text)", "eval may run what it is given"),
    ],
)
def test_a_broken_rule_is_seen(path: str, text: str, said: str) -> None:
    source = Source(path, text)
    assert said in "\n".join(line for rule in RULES for line in rule(source))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/tune.py", "import click\nfrom src.training.trainer import fit\nfrom src.search.study import Study"),
        ("src/tracking/a.py", "from src.data.mvsa import survey\nfrom src.core.errors import UserError"),
        ("src/training/a.py", "import torch\nfrom PIL.Image import Image\nfrom src.training.b import c\nmodel.eval()"),
        ("src/models/a.py", "torch.load(file, weights_only=True)"),
        ("src/models/a.py", "from pickle import UnpicklingError"),
    ],
)
def test_what_is_allowed_passes(path: str, text: str) -> None:
    assert not [line for rule in RULES for line in rule(Source(path, text))]


def test_imported_libraries_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    declared = {canonicalize_name(Requirement(line).name) for line in wanted}
    packages = packages_distributions()
    undeclared = [
        library
        for library in DOORS
        if not declared.intersection(map(canonicalize_name, packages.get(library, [library])))
    ]
    assert not undeclared, f"pyproject.toml does not ask for {undeclared}"


def test_imports_have_no_ring() -> None:
    modules = {source.name: source for source in sources()}

    def module_of(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    graph = {
        name: {module_of(item.name) for item in source.imports()} & set(modules) - {name}
        for name, source in modules.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def test_importing_a_command_loads_nothing_slow() -> None:
    commands = [source.name for source in sources() if source.path.count("/") == 1 and source.name != "src"]
    script = (
        "import importlib, json, sys\n"
        f"loaded, slow = {{}}, set({SLOW!r})\n"
        f"for command in {commands!r}:\n"
        "    importlib.import_module(command)\n"
        "    for name in sorted(slow.intersection(sys.modules)):\n"
        "        loaded.setdefault(name, command)\n"
        "print(json.dumps(loaded))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found, "\n" + "\n".join(f"importing {command} loads {name}" for name, command in found.items())


def own_modules() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "src"]


@pytest.fixture
def unloaded() -> Iterator[None]:
    """Have no module of src/ loaded for as long as the test lasts, but all libraries, which have their own ways."""
    for source in sources():
        importlib.import_module(source.name)
    kept = {name: sys.modules.pop(name) for name in own_modules()}
    yield
    for name in own_modules():
        del sys.modules[name]
    sys.modules.update(kept)


def test_every_module_imports_without_unix_modules(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fcntl", "grp", "pwd", "resource", "termios"):
        monkeypatch.setitem(sys.modules, name, None)
    for source in sources():
        importlib.import_module(source.name)


def test_files_name_no_machine_paths() -> None:
    """But data.dvc, which the user points wherever the posts are."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    homes = r"(^|[^[:alnum:]._-])/(home|root|Users|work|workspace)/[[:alnum:]]"
    here = "|".join(re.escape(str(place)) for place in (ROOT, Path.home()) if len(place.parts) > 1)
    patterns = ["-e", homes, "-e", rf"({here})(/|[^[:alnum:]_.-]|$)"]
    command = ["git", "grep", "-InE", "--untracked", *patterns, "--", ":!/data.dvc"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode in (0, 1), found.stderr
    assert not found.stdout, "\n" + found.stdout
