"""A Python that has its libraries loaded, in which a command starts at once: seconds saved each time.

A process that has loaded them all becomes the command by forking. What is run, stopped and killed is a real process.
The command's own modules, those of src/, are loaded anew from where it is run.
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
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, TextIO

LIBRARIES = """
accelerate.utils alembic.command dvc.cli.parser dvc.commands.repro dvc.repo dvc.stage.run
matplotlib.backends.backend_agg matplotlib.figure mlflow.pyfunc mlflow.store.model_registry.sqlalchemy_workspace_store
mlflow.store.tracking.sqlalchemy_workspace_store mlflow.system_metrics.system_metrics_monitor
mlflow.tracing.processor.otel optuna.importance optuna.storages._rdb.storage optuna.storages._rdb.models pandas
peft.utils.transformers_weight_conversion safetensors.torch scipy.stats sklearn.ensemble sklearn.metrics
sklearn.model_selection torch transformers.models.clip.image_processing_pil_clip
transformers.models.clip.modeling_clip transformers.models.llava.modeling_llava
"""
STREAMS = (0, 1, 2)
SERVE = "serve"
PATIENCE_S = 600


class Running:
    """A command that was started: its process id, and how it ends."""

    def __init__(self, answers: TextIO, log: Path) -> None:
        self._answers = answers
        self._log = log
        self.pid = int(answers.readline())

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return Path(f"/proc/{self.pid}").exists()

    def kill(self, number: int) -> None:
        """Send it a signal, if it has not ended yet."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> tuple[int, str]:
        """The exit code (less than 0: the signal that killed it) and what was said, standard error included."""
        with self._answers:
            return int(self._answers.readline()), self._log.read_text()

    def said(self, code: int = 0) -> str:
        """What was said by the time it ends, which must be with this exit code."""
        found, said = self.wait()
        assert found == code, said
        return said


class WarmPython:
    """Runs `python -m MODULE`, as often as wanted."""

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

    def start(
        self, folder: Path, module: str, *words: str, before: str = "", environment: Mapping[str, str] | None = None
    ) -> Running:
        """Start a command in a folder; `before` is Python that is done first, in the same process.

        It has the variables of this process but for the store, and those of `environment`. If it starts `python`, or
        processes as torch's launcher does, they are of this kind too.
        """
        inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        own = {"PATH": f"{self._program.parent}{os.pathsep}{os.environ['PATH']}", "PYTHON_EXEC": str(self._program)}
        request = Request(str(folder), ["-m", module, *words], {**inherited, **own, **(environment or {})}, before)
        log, name = tempfile.mkstemp(dir=self._program.parent)
        try:
            return Running(ask(self._address, request, (0, log, log)), Path(name))
        finally:
            os.close(log)

    def run(self, folder: Path, module: str, *words: str, code: int = 0) -> str:
        """Run a command in a folder to its end; returns what it says."""
        return self.start(folder, module, *words).said(code)

    def close(self) -> None:
        """End the process that waits."""
        self._server.communicate()
        self._folder.cleanup()


@dataclass(frozen=True)
class Request:
    """What is to be run and where; the words are what `python` would be given."""

    folder: str
    words: list[str]
    environment: dict[str, str]
    before: str = ""


def ask(address: str, request: Request, streams: tuple[int, ...] = STREAMS) -> TextIO:
    """Have a command started with these standard streams; its process id and its exit code come as lines.

    The command is killed if the answers are closed before that, or if it takes longer than any test should.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE_S)
        line.connect(address)
        socket.send_fds(line, [b" "], streams)
        line.sendall(f"{json.dumps(asdict(request))}\n".encode())
        return line.makefile()


def serve(listener: socket.socket) -> Request:
    """Wait for requests until standard input ends; it returns in the process of each command."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        line, _ = listener.accept()
        # A process of its own waits for the command, for that may ask for others.
        with line:
            if os.fork() == 0:
                listener.close()
                return attend(line)
    os._exit(0)


def attend(line: socket.socket) -> Request:
    """Fork the process of a command and return there; the other one says its process id and exit code, and ends."""
    _, streams, *_ = socket.recv_fds(line, 1, len(STREAMS))
    request = Request(**json.loads(line.makefile().readline()))
    child = os.fork()
    if child:
        answer(line, child)
        os._exit(0)
    for stream, number in zip(streams, STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    return request


def answer(line: socket.socket, child: int) -> None:
    """Say the process id of a command and its exit code; kill it if nobody listens any more."""
    line.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    if ended not in select.select([line.fileno(), ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        line.sendall(f"{code}\n".encode())


def become(request: Request) -> NoReturn:
    """Be `python` with the words of a request, in its folder and environment."""
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    program, *words = [word for word in request.words if word not in ("-m", "-u")]
    is_module = "-m" in request.words
    own = request.folder if is_module else str(Path(program).parent)
    sys.path[:1] = [own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.orig_argv = [sys.executable, *request.words]
    sys.argv = [program, *words]
    try:
        exec(request.before, {})  # noqa: S102 # the test's own
        if is_module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as left:
        leave(left.code if isinstance(left.code, int) else bool(left.code))
    except BaseException:  # noqa: BLE001 # as Python does
        traceback.print_exc()
        leave(1)
    leave(0)


def leave(code: int) -> NoReturn:
    """End this process as Python does, but for taking apart what is loaded: that alone takes seconds after a fork."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def stand_in(address: str, words: list[str]) -> int:
    """Be the process of `python` with these words to whoever started it; returns the exit code."""
    with ask(address, Request(str(Path.cwd()), words, dict(os.environ))) as answers:
        command = int(answers.readline())

        def pass_on(number: int, _: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(command, number)

        signal.signal(signal.SIGTERM, pass_on)
        return int(answers.readline())


def load_libraries() -> None:
    """Load what commands load, without what it says of that, and to stay where it is in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES.split():
            importlib.import_module(name)
    gc.freeze()


if __name__ == "__main__":
    if sys.argv[1] == SERVE:
        load_libraries()
        become(serve(socket.socket(fileno=int(sys.argv[2]))))
    else:
        sys.exit(stand_in(sys.argv[1], sys.argv[2:]))
