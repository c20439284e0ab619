"""Backpropagation from scratch: reverse-mode differentiation of numpy arrays, without torch.

tensor.py has the record, the walk back through it and the check against central differences. operations.py
has every operation beside its vector-Jacobian product: for example `operations.softmax(x @ W)`. Neither
needs the rest of llmcore.
"""

from llmcore.autograd import operations
from llmcore.autograd.tensor import (
    OPERATIONS,
    Tensor,
    central_differences,
    gradient_check,
    operation,
    topological,
    unbroadcast,
)

__all__ = [
    "OPERATIONS", "Tensor", "central_differences", "gradient_check", "operation", "operations",
    "topological", "unbroadcast",
]  # fmt: skip
