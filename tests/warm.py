"""A fork server for commands: it runs `python -m MODULE` in real processes that have the libraries loaded already.

    test ───ask───▶ server             holds LIBRARIES, runs no command itself
                      │ fork
                      ▼
                    attendant          reports the command's process id and exit code to the test
                      │ fork
                      ▼
                    command            runs `python -m MODULE` in the test's folder; loads src/ from there
                      │ starts `python`, as DVC does for stages, torch's launcher for ranks and Ray for workers
                      ▼
                    stand-in ──ask──▶ server ─▶ attendant ─▶ command …

`python` on the PATH of a command is the stand-in, and so is its `sys.executable`. So a whole `dvc repro` pays for
imports once. Tests can stop and kill commands like any other process.

Seconds on two busy cores (load 6 to 10), from the start to the end of a command, and processor seconds of the cold one:

    command (tiny CLIP, sample)      cold   warm   processor, cold
    python -m src.prepare --help      2.3    2.1               0.4
    python -m src.prepare             6.0    1.9               1.6
    python -m src.split              15.9    2.2               3.4
    python -m src.encode             39.0    3.0              12.4
    python -m src.frozen            149.6   12.4              24.0

The server itself needs 81 s at that load, once per test process. One command that loads MLflow repays it.

multiprocessing's forkserver with preload would cover server and command, but not the stand-in. Only the process that
started a forkserver can ask it for children, so the stages of `dvc repro` and torch's ranks would start cold.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn, TextIO

LIBRARIES = """
multiprocessing.spawn accelerate.utils alembic.command dvc.cli.parser dvc.commands.repro dvc.repo dvc.stage.run
matplotlib.backends.backend_agg matplotlib.figure mlflow.pyfunc mlflow.store.model_registry.sqlalchemy_workspace_store
mlflow.store.tracking.sqlalchemy_workspace_store mlflow.system_metrics.system_metrics_monitor
mlflow.tracing.processor.otel optuna.importance optuna.storages._rdb.storage optuna.storages._rdb.models pandas
peft.utils.transformers_weight_conversion safetensors.torch scipy.stats sklearn.ensemble sklearn.metrics
sklearn.model_selection torch transformers.models.clip.image_processing_pil_clip
transformers.models.clip.modeling_clip transformers.models.llava.modeling_llava
"""
# Standard input, output and error.
STREAMS = (0, 1, 2)
SERVE = "serve"
# The variable that names the program by which torch's launcher starts ranks.
EXECUTABLE = "PYTHON_EXEC"
# The variable of the code that a command and the processes it starts run first.
BEFORE = "WARM_BEFORE"
# Longer than any command of a test takes.
TIMEOUT_S = 600


class Running:
    """A command that was started."""

    def __init__(self, answers: TextIO, log: Path) -> None:
        self._answers = answers
        self._log = log
        self.pid = int(answers.readline())

    @property
    def is_running(self) -> bool:
        """Whether the command has not ended yet."""
        return Path(f"/proc/{self.pid}").exists()

    def kill(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> tuple[int, str]:
        """Wait for the end. Return the exit code (negative: the signal that killed it) and the output with errors."""
        with self._answers:
            return int(self._answers.readline()), self._log.read_text()

    def output(self, code: int = 0) -> str:
        """Wait for the end, which must have this exit code. Return the output with standard error."""
        actual, output = self.wait()
        assert actual == code, output
        return output


class WarmPython:
    """The fork server, as tests use it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._address = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen()
            command = [sys.executable, __file__, SERVE, str(listener.fileno())]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        self._program = Path(self._folder.name) / "python"
        self._program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" "{self._address}" "$@"\n')
        self._program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of commands: this process's, without MLflow's store, and with `python` as the stand-in."""
        inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        path = f"{self._program.parent}{os.pathsep}{os.environ['PATH']}"
        return {**inherited, "PATH": path, EXECUTABLE: str(self._program)}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the stand-in in the place of `sys.executable`, for processes that code in this one starts."""
        # Late, because the stand-in starts without it.
        import pytest

        # `multiprocessing` keeps the program that it finds when it is imported. Its children inherit open files, and
        # those of the server do not.
        importlib.import_module("multiprocessing.spawn")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(self._program))
            patch.setenv(EXECUTABLE, str(self._program))
            yield

    def start(
        self, folder: Path, module: str, *words: str, before: str = "", environment: Mapping[str, str] | None = None
    ) -> Running:
        """Start a command in a folder.

        Args:
            folder: the command's working directory.
            module: run as `python -m` does.
            words: the command's arguments.
            before: Python code that the process runs first, and each process that it starts likewise.
            environment: variables on top of this process's own, which lose MLflow's store.
        """
        variables = {**self.environment, BEFORE: before, **(environment or {})}
        request = Request(str(folder), ["-m", module, *words], variables)
        log, name = tempfile.mkstemp(dir=self._program.parent)
        try:
            return Running(ask(self._address, request, (0, log, log)), Path(name))
        finally:
            os.close(log)

    def run(self, folder: Path, module: str, *words: str, code: int = 0) -> str:
        """Run a command in a folder to its end. Return its output."""
        return self.start(folder, module, *words).output(code)

    def close(self) -> None:
        """End the server."""
        self._server.communicate()
        self._folder.cleanup()


@dataclass(frozen=True)
class Request:
    """A command to run."""

    folder: str
    # The arguments of `python`.
    words: list[str]
    # All variables of the process.
    environment: dict[str, str]


def ask(address: str, request: Request, streams: tuple[int, ...] = STREAMS) -> TextIO:
    """Ask the server to start a command with these standard streams.

    Return a file with two lines: the process id, and the exit code. The server kills the command if the file is closed
    before the command ends. Reading raises TimeoutError after `TIMEOUT_S`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(address)
        socket.send_fds(connection, [b" "], streams)
        connection.sendall(f"{json.dumps(asdict(request))}\n".encode())
        return connection.makefile()


def serve(listener: socket.socket) -> Request:
    """Serve requests until standard input ends. Return only in the processes of commands, with their request."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        # The attendant waits for the command, so that the server can serve the requests of that command.
        with connection:
            if os.fork() == 0:
                listener.close()
                return attend(connection)
    os._exit(0)


def attend(connection: socket.socket) -> Request:
    """Fork the process of a command, and return there. The attendant reports the command and exits."""
    _, streams, *_ = socket.recv_fds(connection, 1, len(STREAMS))
    request = Request(**json.loads(connection.makefile().readline()))
    child = os.fork()
    if child:
        report(connection, child)
        os._exit(0)
    for stream, number in zip(streams, STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    return request


def report(connection: socket.socket, child: int) -> None:
    """Send the process id of a command and its exit code. Kill the command if the asker closes the connection."""
    connection.sendall(f"{child}\n".encode())
    end = os.pidfd_open(child)
    if end not in select.select([connection.fileno(), end], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{code}\n".encode())


def become(request: Request) -> NoReturn:
    """Run a request in this process as a new `python` would, and exit."""
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    # Behind the program, `-m` is an argument of it, as of `accelerate launch`.
    options = list(takewhile(("-I", "-c", "-m", "-u").__contains__, request.words))
    program, *words = request.words[len(options) :]
    # A file's folder comes first, and the current one for `-c` and `-m`.
    first = request.folder if {"-c", "-m"} & set(options) else str(Path(program).parent)
    added = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # The server's own folder stands first. `-I` puts nothing in its place.
    sys.path[:1] = [] if "-I" in options else added
    sys.orig_argv = [sys.executable, *request.words]
    # Processes that the command starts are the server's too.
    sys.executable = request.environment.get(EXECUTABLE, sys.executable)
    sys.argv = ["-c" if "-c" in options else program, *words]
    try:
        exec(request.environment.get(BEFORE, ""), {})  # noqa: S102 # written by the test
        run_as_main(options, program)
    except SystemExit as error:
        end_process(error.code if isinstance(error.code, int) else bool(error.code))
    except BaseException:  # noqa: BLE001 # as Python does
        traceback.print_exc()
        end_process(1)
    end_process(0)


def run_as_main(options: list[str], program: str) -> None:
    """Run a module (`-m`), code (`-c`) or a file as the main program."""
    if "-m" in options:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif "-c" in options:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(program, main.__dict__)  # noqa: S102 # as Python does
    else:
        runpy.run_path(program, run_name="__main__")


def end_process(code: int) -> NoReturn:
    """Run exit handlers and exit, without Python's teardown of modules, which takes seconds after a fork."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def stand_in(address: str, words: list[str]) -> int:
    """Stand for `python` with these arguments: run it by the server, pass SIGTERM on, return its exit code."""
    with ask(address, Request(str(Path.cwd()), words, dict(os.environ))) as answers:
        command = int(answers.readline())

        def forward(number: int, _: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(command, number)

        signal.signal(signal.SIGTERM, forward)
        return int(answers.readline())


def load_libraries() -> None:
    """Load the libraries of commands, without their warnings."""
    # Nothing of them is garbage.
    gc.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES.split():
            importlib.import_module(name)
    # Keep collections in children from writing to the shared pages.
    gc.freeze()
    gc.enable()


def skip_syncs() -> None:
    """Let SQLite not wait for the disk: no test cuts the power, and the kernel keeps what a killed process wrote."""
    connect = sqlite3.connect

    def connect_unsynced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        # A file that is no database stays a test's own error.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA synchronous=OFF")
        return connection

    # SQLAlchemy takes the function from the second module.
    for module in (sqlite3, sqlite3.dbapi2):
        setattr(module, "connect", connect_unsynced)  # noqa: B010 # the type of `connect` has overloads


if __name__ == "__main__":
    if sys.argv[1] == SERVE:
        skip_syncs()
        load_libraries()
        become(serve(socket.socket(fileno=int(sys.argv[2]))))
    else:
        sys.exit(stand_in(sys.argv[1], sys.argv[2:]))
