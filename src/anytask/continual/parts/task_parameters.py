"""Parameters and statistics that belong to one task, inside a network that belongs to all."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.func import functional_call


class TaskParameters(nn.Module):
    """One task's own copies of some tensors of a frozen network.

    The network is run with these in place of its own, so nothing of it is written, batch statistics included: what a
    task learns cannot move another one, whatever the optimizer does.

    Parameters
    ----------
    network : torch.nn.Module
        The frozen network; kept by nobody, and passed to every call.
    names : iterable of str
        Its parameters and buffers that the task has copies of, as ``named_parameters`` and ``named_buffers`` call them.

    Examples
    --------
    >>> import torch
    >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).requires_grad_(False)
    >>> own = TaskParameters(network, ["1.weight", "1.running_mean"])
    >>> _ = own(network.train(), torch.randn(8, 2))
    >>> bool(own["1.running_mean"].any()), bool(network[1].running_mean.any())
    (True, False)
    """

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
        for name in names:
            key = name.replace(".", "/")  # a module's names have no dots
            if name in parameters:
                self.register_parameter(key, nn.Parameter(parameters[name].detach().clone()))
            else:
                self.register_buffer(key, buffers[name].detach().clone())

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors()[name]

    def tensors(self) -> dict[str, Tensor]:
        """Return the copies by the names that they have in the network."""
        own = [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]
        return {name.replace("/", "."): tensor for name, tensor in own}

    def forward(self, network: nn.Module, x: Tensor) -> Tensor:
        return functional_call(network, self.tensors(), (x,))
