"""Weights that are sharded over the processes of a training: each holds a part, and a layer is whole only as it runs.

What is sharded stays so, and runs only in all processes at once. This is PyTorch's own `fully_shard` rather than
accelerate's `prepare`, which shards nothing for CPU processes (accelerate 1.15, `AcceleratorState`), and would take the
last layer of a stack for one that is called, where it is run in parts (`src/modeling/last_layer.py`).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from src.modeling.base import ToneModel


def shard(model: ToneModel, device: torch.device, num_processes: int) -> None:
    """Shard over all processes what a step runs; what is frozen and cached is not run, and stays where it is."""
    # Nothing here changes its input in place, which is what PyTorch warns of where a layer returns a view.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(device.type, (num_processes,))
    at_rest = _unused_parameters(model)
    for unit in [*_layers(model), model]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=at_rest)
        assert isinstance(unit, FSDPModule)
        # Gradients are summed, for each process weighs its posts by the whole batch. Unless it is told to, PyTorch
        # would divide by this factor in an operation that NCCL alone has.
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)


def full_tensor(weight: Tensor) -> Tensor:
    """All of a weight. Of a sharded one all processes must ask at once."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def distributed_like(values: Tensor, weight: Tensor) -> Tensor:
    """Values, which all processes have, on the device of a weight and sharded as it is."""
    values = values.to(weight.device)
    if isinstance(weight, DTensor):
        return distribute_tensor(values, weight.device_mesh, weight.placements, src_data_rank=None)
    return values


def fill(weight: Tensor, values: Tensor) -> None:
    """Copy values, which all processes have, into a weight that may be sharded."""
    with torch.no_grad():
        weight.copy_(distributed_like(values, weight))


def gathered(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments and counts of steps, whole, on the CPU, named PLACE/NAME by the weight's place.

    Of sharded ones all processes must ask at once.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{place}/{name}": full_tensor(value).cpu() for place, each in state.items() for name, value in each.items()
    }


def scatter(optimizer: Optimizer, moments: Mapping[str, Tensor], weights: Sequence[Tensor]) -> None:
    """Put them back, each sharded as its weight is; a count of steps is every process's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        place, _, name = key.partition("/")
        whole_or_part = distributed_like(value, weights[int(place)]) if value.ndim else value
        state.setdefault(int(place), {})[name] = whole_or_part
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def put_back(weight: Tensor, original: Tensor) -> None:
    """Make a weight again what it was, down to its memory. One that is sharded has only its values back."""
    if isinstance(weight, DTensor):
        fill(weight, original)
    else:
        weight.data = original


def _unused_parameters(model: ToneModel) -> set[nn.Parameter]:
    """The weights that only the frozen segments use, or nothing does."""
    frozen = model.frozen_segments()
    runs = tuple(prefix for each in model.segments if each not in frozen for prefix in each.modules)
    # Tied weights have several names.
    names = model.backbone.named_parameters(remove_duplicate=False)
    return set(model.backbone.parameters()) - {weight for name, weight in names if name.startswith(runs)}


def _layers(model: ToneModel) -> Iterator[nn.Module]:
    """The layers that a step calls: all that it runs but the last of each stack."""
    frozen, last = model.frozen_segments(), {segment.name: segment for segment in model.segments}
    for segment in model.segments:
        if segment.layers and segment not in frozen and segment is not last[segment.name]:
            yield from (model.backbone.get_submodule(name[:-1]) for name in segment.modules if name.endswith("."))
