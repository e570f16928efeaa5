"""Private doors of libraries: each does what the package needs of it."""

import torch
from accelerate import PartialState
from torch import Tensor, nn

from vae.compat import forget_accelerator, keep_from_ddp, move_towards, tracing_autograd, tree_leaves
from vae.distributed import launch
from vae.evaluation.log_likelihood.budget import largest_tensor


def test_the_state_of_an_accelerator_is_forgotten() -> None:
    launch.make_accelerator("cpu", "no", {})
    assert PartialState._shared_state
    forget_accelerator()
    assert not PartialState._shared_state
    forget_accelerator()


def test_ddp_leaves_out_the_named_buffers() -> None:
    model = nn.BatchNorm1d(3)
    keep_from_ddp(model, [name for name, _ in model.named_buffers()])
    ignored = model._ddp_params_and_buffers_to_ignore  # DDP reads this attribute of the module that it wraps
    assert ignored == ["running_mean", "running_var", "num_batches_tracked"]


def test_functions_that_take_gradients_may_be_traced() -> None:
    import torch._dynamo

    with tracing_autograd():
        assert torch._dynamo.config.trace_autograd_ops


def test_operations_are_seen_and_trees_have_leaves() -> None:
    assert largest_tensor(lambda: torch.zeros(2, 3) + torch.ones(5, 2, 3)) == 5 * 2 * 3 * 4
    leaves = tree_leaves(({"a": torch.zeros(1)}, [torch.ones(2), 3]))
    assert [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor)] == [1, 2]


def test_tensors_move_towards_others_by_a_share_of_the_way() -> None:
    tensors, targets = ([torch.full((2, 3), value), torch.full((4,), -value)] for value in (1.0, 3.0))
    move_towards(tensors, targets, torch.tensor(0.25))
    assert [tensor.unique().tolist() for tensor in tensors] == [[1.5], [-1.5]]
    move_towards(tensors, targets, torch.tensor(0.0))
    assert [tensor.unique().tolist() for tensor in tensors] == [[1.5], [-1.5]]
