"""One training on several processes, started by `accelerate launch`: docs/parallel.md says when and how.

Every optimiser step is of the same posts as in one process, and each process computes a share of them. Either each has
all weights, and gradients are summed before the step (data-parallel), or the weights are sharded over all (FSDP:
Y. Zhao et al., PyTorch FSDP, VLDB 2023; here in its second form, `fully_shard`).
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from src.core.errors import UsageError, UserError
from src.modeling.base import ToneModel
from src.training.launch import is_launched, is_main
from src.training.sharding import shard

# How long a process waits for the others. On one machine that is never long: whoever fills the cache holds a lock, and
# the others wait for that. But each machine fills its own. The launcher sees at once who has died.
TIMEOUT = timedelta(hours=2)
# What an accelerate config may say, by the variable in which the launcher passes it on: anything else is not done here.
_CONFIG = {
    "mixed_precision": ("ACCELERATE_MIXED_PRECISION", "no"),
    "dynamo_backend": ("ACCELERATE_DYNAMO_BACKEND", "no"),
    "use_deepspeed": ("ACCELERATE_USE_DEEPSPEED", "false"),
    "use_megatron_lm": ("ACCELERATE_USE_MEGATRON_LM", "false"),
    "use_parallelism_config": ("ACCELERATE_USE_PARALLELISM_CONFIG", "false"),
    "fsdp_version": ("FSDP_VERSION", "2"),
    "fsdp_reshard_after_forward": ("FSDP_RESHARD_AFTER_FORWARD", "true"),
    "fsdp_offload_params": ("FSDP_OFFLOAD_PARAMS", "false"),
    "fsdp_activation_checkpointing": ("FSDP_ACTIVATION_CHECKPOINTING", "false"),
    "fsdp_cpu_ram_efficient_loading": ("FSDP_CPU_RAM_EFFICIENT_LOADING", "false"),
}
_LOST = "this process has lost the others, and they, or the launcher, say why"


@dataclass(frozen=True)
class DistributedContext:
    """The processes of one training, as seen by one of them. The default is a single process, without communication."""

    rank: int = 0
    num_processes: int = 1
    sharded: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files, logs and prints."""
        return self.rank == 0

    def prepare(self, model: ToneModel) -> None:
        """Give every process the same weights, or its shards of them."""
        if self.num_processes == 1:
            return
        if self.sharded:
            shard(model, own_device(), self.num_processes)
        else:
            _copy_from_main(weight for weight in model.parameters() if weight.requires_grad)

    def seed(self, number: int) -> None:
        """Have every process draw a dropout of its own from now on, the main one that of a process alone."""
        torch.manual_seed(number + self.rank * 2**32)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, to the bit the same in each, on the device of `values`."""
        if self.num_processes == 1:
            return values
        from accelerate.utils.operations import reduce

        total: Tensor = reduce(values.to(own_device()), "sum").to(values.device)
        return total

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all gradients. Those of sharded weights are summed on their way back."""
        if self.num_processes == 1 or self.sharded:
            return
        # The same weights have one in every process: each has run all modules, if only for a post that does not count.
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        vector_to_parameters(self.sum(parameters_to_vector(gradients)), gradients)

    def broadcast_main(self, decision: bool) -> bool:
        """What the main process decides."""
        return bool(self.sum(torch.tensor(int(decision and self.is_main))))

    def min(self, number: int) -> int:
        """The least of all processes' numbers."""
        numbers_W = torch.zeros(self.num_processes, dtype=torch.int64)
        numbers_W[self.rank] = number
        return int(self.sum(numbers_W).min())


SINGLE_PROCESS = DistributedContext()


@contextmanager
def open_distributed() -> Iterator[DistributedContext]:
    """The processes that `accelerate launch` has started, for as long as the context lasts; else this one alone.

    Raises:
        UsageError: the accelerate config asks for something that is not done here.
        UserError: another process has failed.
    """
    if not is_launched():
        yield SINGLE_PROCESS
        return
    _require_known_config()
    if is_main():
        # So that it says why it ends, and ends what it has begun elsewhere.
        signal.signal(signal.SIGTERM, _end)
    try:
        yield _join()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(f"{_LOST}: {str(error).splitlines()[0]}") from error
        raise
    dist.destroy_process_group()


def own_device() -> torch.device:
    """Where this process computes: on a GPU, of several processes each on its own, or on the CPU."""
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if is_launched() else torch.device("cuda")


def loading_device() -> torch.device:
    """Where a model is loaded to: on the CPU if it is to be sharded, for it may be too large for one GPU."""
    return torch.device("cpu") if _is_sharded() else own_device()


def _is_sharded() -> bool:
    return is_launched() and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _require_known_config() -> None:
    for key, (variable, value) in _CONFIG.items():
        if os.environ.get(variable, value).lower() != value:
            raise UsageError(f"the accelerate config must say {key}: {value}; docs/parallel.md says why")
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if own_device().type == "cuda" and here > torch.cuda.device_count():
        raise UsageError(f"{here} processes for {torch.cuda.device_count()} GPUs: each needs its own (num_processes)")


def _join() -> DistributedContext:
    from accelerate import PartialState

    # Unless it is told that this is for the CPU, it takes no GPU to mean one process.
    state = PartialState(cpu=own_device().type == "cpu", timeout=TIMEOUT)
    return DistributedContext(state.process_index, state.num_processes, _is_sharded())


def _end(*_: int | FrameType | None) -> None:
    if sys.exception() is None:  # else this process is ending already, and says why
        raise UserError("the launcher ends this training: another process has failed, or the launcher was told to")


def _copy_from_main(weights: Iterable[Tensor]) -> None:
    from accelerate.utils.operations import broadcast

    for weight in weights:
        broadcast(weight.data)
