"""Every intermediate tensor of a forward pass, by the path of the module that made it."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Seen(dict[str, Tensor]):
    """path -> the module's output (the latest, if the module ran more than once).

    `gradients` has the same paths once a backward pass has run inside the trace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gradients: dict[str, Tensor] = {}

    def __missing__(self, path: str) -> Tensor:
        near = difflib.get_close_matches(path, self, n=3) or list(self)[:3]
        square = path.endswith((".scores", ".weights"))
        hint = "; scores and weights pass by only with attention='explicit'" if square else ""
        raise KeyError(f"{path!r} was not seen: nearest are {near}{hint}")


@contextmanager
def trace(model: nn.Module, gradients: bool = False) -> Iterator[Seen]:
    """`with trace(model) as seen: model(ids)` keeps each module's output under its named_modules() path.

    Example: seen["decoder.blocks.0.attention.weights"] is (B, H, T, S). With gradients=True, run backward in
    the block too; seen.gradients[path] is then dL/d(output). On exit the hooks are removed, error or not.
    """
    seen = Seen()
    handles = []

    def watch(path: str):
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            seen.pop(path, None)  # a module that runs again moves to the end: order is that of latest runs
            seen[path] = output.detach() if not gradients else output
            if gradients and output.requires_grad:
                handles.append(output.register_hook(lambda g: seen.gradients.__setitem__(path, g.detach())))

        return hook

    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_hook(watch(path or "output")))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
