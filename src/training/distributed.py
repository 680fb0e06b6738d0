"""One training on several processes that `accelerate launch` starts. docs/parallel.md says when and how.

An optimiser step has the same posts as in one process, and every process computes a share of them. In data-parallel
training every process has all weights, and gradients are summed before the step. In sharded training the weights are
sharded over all processes (FSDP: Y. Zhao et al., PyTorch FSDP, VLDB 2023). The code uses the second form of FSDP,
`fully_shard`.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from src.core.errors import UsageError, UserError, first_line
from src.modeling.base import ToneModel
from src.training.launch import is_launched, is_main
from src.training.sharding import shard

# The longest time that a process waits for the others. On one machine the wait is short: the process that fills the
# cache holds a lock, and the others wait for the lock. Several machines each fill their own cache, which may take long.
# A long timeout hides no dead process, because the launcher sees that at once.
TIMEOUT = timedelta(hours=2)
# The only value that the code supports for a key of an accelerate config, with the launcher's variable for the key.
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
    """The processes of one training, as one of them sees them. The default is one process without communication."""

    # The number of this process, from 0.
    rank: int = 0
    num_processes: int = 1
    # Whether the weights are sharded over the processes. If not, every process has all of them.
    sharded: bool = False

    @property
    def is_main(self) -> bool:
        """Return whether this process writes the files, logs and prints."""
        return self.rank == 0

    def prepare(self, model: ToneModel) -> None:
        """Give every process the same trainable weights, or its shards of the weights that run."""
        if self.num_processes == 1:
            return
        if self.sharded:
            shard(model, own_device(), self.num_processes)
        else:
            _copy_from_main(weight for weight in model.parameters() if weight.requires_grad)

    def seed(self, number: int) -> None:
        """Seed every process's dropout differently. The main process draws what a single process would draw."""
        # torch's generator on the CPU reads 32 bits of a seed.
        mixed = np.random.SeedSequence((number, self.rank)).generate_state(1)
        torch.manual_seed(number if self.is_main else int(mixed[0]))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes on the device of `values`. Every process gets the same bits."""
        if self.num_processes == 1:
            return values
        from accelerate.utils.operations import reduce

        total: Tensor = reduce(values.to(own_device()), "sum").to(values.device)
        return total

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all gradients. `fully_shard` has summed those of sharded weights already."""
        if self.num_processes == 1 or self.sharded:
            return
        # The vectors have equal lengths: every process has run all modules, if only on a post of weight 0.
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        vector_to_parameters(self.sum(parameters_to_vector(gradients)), gradients)

    def broadcast_main(self, decision: bool) -> bool:
        """Return the main process's decision in every process."""
        return self.any(decision and self.is_main)

    def any(self, decision: bool) -> bool:
        """Return whether at least one process has decided so. Every process gets the same answer."""
        return bool(self.sum(torch.tensor(int(decision))))

    def min(self, number: int) -> int:
        """Return the least of all processes' numbers."""
        numbers_W = torch.zeros(self.num_processes, dtype=torch.int64)
        numbers_W[self.rank] = number
        return int(self.sum(numbers_W).min())


SINGLE_PROCESS = DistributedContext()


@contextmanager
def open_distributed() -> Iterator[DistributedContext]:
    """Join the processes of `accelerate launch` for as long as the context lasts. Without it yield `SINGLE_PROCESS`.

    Raises:
        UsageError: the accelerate config asks for something that the code does not support, or there are too few GPUs.
        UserError: another process has failed.
    """
    if not is_launched():
        yield SINGLE_PROCESS
        return
    _require_known_config()
    if is_main():
        # The handler raises: the main process then says why it ends, and closes what it has opened elsewhere.
        signal.signal(signal.SIGTERM, _end)
    try:
        yield _join()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(f"{_LOST}: {first_line(error)}") from error
        raise
    dist.destroy_process_group()


def own_device() -> torch.device:
    """Return the device on which this process computes: a GPU of its own, or the CPU."""
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if is_launched() else torch.device("cuda")


def loading_device() -> torch.device:
    """Return the device to load a model to: the CPU before sharding, because the model may exceed one GPU."""
    return torch.device("cpu") if _is_sharded() else own_device()


def _is_sharded() -> bool:
    return is_launched() and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _require_known_config() -> None:
    for key, (variable, value) in _CONFIG.items():
        if os.environ.get(variable, value).lower() != value:
            raise UsageError(f"the accelerate config must say {key}: {value}; docs/parallel.md says why")
    num_local = int(os.environ["LOCAL_WORLD_SIZE"])
    if own_device().type == "cuda" and num_local > torch.cuda.device_count():
        raise UsageError(
            f"{num_local} processes for {torch.cuda.device_count()} GPUs: each needs its own (num_processes)"
        )


def _join() -> DistributedContext:
    from accelerate import PartialState

    # Without `cpu`, accelerate assumes a single process on a machine that has no GPU.
    state = PartialState(cpu=own_device().type == "cpu", timeout=TIMEOUT)
    return DistributedContext(state.process_index, state.num_processes, _is_sharded())


def _end(*_: int | FrameType | None) -> None:
    if sys.exception() is None:  # an exception in flight ends this process already, and has its own message
        raise UserError("the launcher ends this training: another process has failed, or the launcher was told to")


def _copy_from_main(weights: Iterable[Tensor]) -> None:
    from accelerate.utils.operations import broadcast

    for weight in weights:
        broadcast(weight.data)
