"""The example that runs through the book: our notes' six tokens, and a model so small that every number can be checked by hand.

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
    """Our notes' dictionary with its special token.

    >>> tuple(toy_tokenizer().encode(TEXT, "all")) == IDS
    True
    """
    return DictionaryTokenizer(NOTES, {"<eos>": 200})


def toy_model(**changes: Any) -> Transformer:
    """Transformer(TOY) with weights of one decimal, the same on every machine and in every version of torch; in eval mode.

    Each parameter is drawn by its own name without its stack, so an encoder's block and a decoder's block have the same weights.
    Matrices ~ N(0, 0.5), biases ~ N(0, 0.1), gains 1; row 101 of E is a tenth of our notes' made-up [1, 2, 3, 4].

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
            values = [round(draw.gauss(0, spread), 1) + 0.0 for _ in range(parameter.numel())]
            parameter.copy_(torch.tensor(values).view_as(parameter))
        model.embedding.table[101] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    return model
