"""The book's running example: our notes' six tokens, and a model small enough to check by hand.

Shapes: T = 6 tokens, D = 4, H = 2 heads of Dh = 2, F = 16, V = 201.
"""

import random
from typing import Any

import torch

from llmcore.config import TOY
from llmcore.model import Transformer
from llmcore.tokenizer import NOTES, DictionaryTokenizer

TEXT = "hello world<eos>"
TOKENS = ("he", "llo", "␣", "wor", "ld", "<eos>")
IDS = (101, 102, 100, 104, 105, 200)


def toy_tokenizer() -> DictionaryTokenizer:
    """The tokenizer of our notes' dictionary, with its special token <eos>.

    >>> tuple(toy_tokenizer().encode(TEXT, "all")) == IDS
    True
    """
    return DictionaryTokenizer(NOTES, {"<eos>": 200})


def toy_model(**changes: Any) -> Transformer:
    """Transformer(TOY) in eval mode, with one-decimal weights that no machine or version of torch changes.

    Each parameter's name, without its stack, is the seed of its values, so an encoder block and a decoder
    block have the same weights. Matrices have standard deviation 0.5, biases 0.1; gains are 1. Row 101 of
    the embedding is a tenth of our notes' made-up [1, 2, 3, 4].

    >>> toy_model().embedding.table[101].tolist() == torch.tensor([0.1, 0.2, 0.3, 0.4]).tolist()
    True
    """
    model = Transformer(TOY.with_(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                continue  # a gain stays 1
            draw = random.Random(name.removeprefix("encoder.").removeprefix("decoder."))
            spread = 0.5 if parameter.ndim > 1 else 0.1
            # + 0.0 makes -0.0 a 0.0
            values = [round(draw.gauss(0, spread), 1) + 0.0 for _ in range(parameter.numel())]
            parameter.copy_(torch.tensor(values).view_as(parameter))
        model.embedding.table[101] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    return model
