"""Widgets that open any matrix and explain any number. Arrays in, no torch needed; see base.py for their three homes."""

from llmcore.widgets.base import Widget
from llmcore.widgets.matrix import MatrixInspector
from llmcore.widgets.operation import OperationInspector
from llmcore.widgets.position import PositionExplorer
from llmcore.widgets.tokenizers import TokenizerExplorer
from llmcore.widgets.vocabulary import VocabularyExplorer

WIDGETS: dict[str, type[Widget]] = {
    "matrix": MatrixInspector,
    "operation": OperationInspector,
    "position": PositionExplorer,
    "tokenizer": TokenizerExplorer,
    "vocabulary": VocabularyExplorer,
}

__all__ = [
    "WIDGETS", "MatrixInspector", "OperationInspector", "PositionExplorer", "TokenizerExplorer", "VocabularyExplorer", "Widget",
]  # fmt: skip
