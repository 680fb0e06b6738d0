"""Weights that are sharded over the processes of a training.

Every process holds a shard of a weight, and a layer is gathered only while it runs. A sharded model stays sharded, and
all processes must run it at once. The code uses PyTorch's `fully_shard` rather than accelerate's `prepare`, for two
reasons. `prepare` shards nothing for CPU processes (accelerate 1.15, `AcceleratorState`). It also expects that every
layer of a stack is called, but `src/modeling/last_layer.py` runs the last one in parts.
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
    """Shard the weights that a step runs over all processes. Weights of frozen, cached segments stay as they are."""
    # PyTorch warns that a returned view must not be changed in place. No module of the models does that.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(device.type, (num_processes,))
    unused = _unused_parameters(model)
    for unit in [*_layers(model), model]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=unused)
        assert isinstance(unit, FSDPModule)
        # Gradients are summed, not averaged, because every process weighs its posts by the size of the whole batch.
        # Without the forced sum, PyTorch would divide by the factor in an operation that only NCCL has.
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)


def full_tensor(weight: Tensor) -> Tensor:
    """Return a weight unsharded. All processes must call it at once if the weight is sharded."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def distributed_like(values: Tensor, weight: Tensor) -> Tensor:
    """Return values, which all processes have, on the device of a weight and sharded like it."""
    values = values.to(weight.device)
    if isinstance(weight, DTensor):
        return distribute_tensor(values, weight.device_mesh, weight.placements, src_data_rank=None)
    return values


def fill(weight: Tensor, values: Tensor) -> None:
    """Copy values, which all processes have, into a weight that may be sharded."""
    with torch.no_grad():
        weight.copy_(distributed_like(values, weight))


def gathered(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's moments and counts of steps, unsharded, on the CPU.

    A key is PLACE/NAME, with the weight's place in the optimiser. All processes must call it at once if the weights
    are sharded.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{place}/{name}": full_tensor(value).cpu()
        for place, moments in state.items()
        for name, value in moments.items()
    }


def scatter(optimizer: Optimizer, moments: Mapping[str, Tensor], weights: Sequence[Tensor]) -> None:
    """Put the result of `gathered` back. Moments are sharded like their weights, and counts of steps are not."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        place, _, name = key.partition("/")
        moment = distributed_like(value, weights[int(place)]) if value.ndim else value
        state.setdefault(int(place), {})[name] = moment
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def put_back(weight: Tensor, original: Tensor) -> None:
    """Give a weight its original memory back. A sharded weight gets only the values back."""
    if isinstance(weight, DTensor):
        fill(weight, original)
    else:
        weight.data = original


def _unused_parameters(model: ToneModel) -> set[nn.Parameter]:
    """Return the weights that no segment uses except frozen ones."""
    frozen = model.frozen_segments()
    prefixes = tuple(prefix for segment in model.segments if segment not in frozen for prefix in segment.modules)
    # Tied weights have several names, and one name in a segment that runs is enough.
    names = model.backbone.named_parameters(remove_duplicate=False)
    return set(model.backbone.parameters()) - {weight for name, weight in names if name.startswith(prefixes)}


def _layers(model: ToneModel) -> Iterator[nn.Module]:
    """Yield the layers that a step calls: all layers that it runs, except the last of every stack."""
    frozen = model.frozen_segments()
    last = {segment.name: segment for segment in model.segments}
    for segment in model.segments:
        if segment.layers and segment not in frozen and segment is not last[segment.name]:
            yield from (model.backbone.get_submodule(name[:-1]) for name in segment.modules if name.endswith("."))
