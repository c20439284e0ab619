"""Every intermediate tensor of a forward pass, by the path of the module that made it."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Seen(dict[str, Tensor]):
    """path -> tensor as it left the module (the latest, where a module ran more than once).

    `gradients` has the same paths once a backward pass has run inside the trace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gradients: dict[str, Tensor] = {}

    def __missing__(self, path: str) -> Tensor:
        near = difflib.get_close_matches(path, self, n=3) or list(self)[:3]
        hint = "; scores and weights pass by only with attention='explicit'" if path.endswith((".scores", ".weights")) else ""
        raise KeyError(f"{path!r} was not seen: nearest are {near}{hint}")


@contextmanager
def trace(model: nn.Module, gradients: bool = False) -> Iterator[Seen]:
    """`with trace(model) as seen: model(ids)`, then seen["decoder.blocks.0.attention.weights"] is a tensor (B, H, T, S).

    With gradients=True, run backward inside the block too; seen.gradients[path] is dL/d(that tensor). The model is left
    as it was on exit, whatever happened inside. Paths are those of model.named_modules().
    """
    seen = Seen()
    handles = []

    def watch(path: str):
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            seen.pop(path, None)  # of a module that runs again the latest counts, in value and in order
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
