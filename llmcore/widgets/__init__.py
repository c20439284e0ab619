"""Widgets that open any matrix and explain any number. Arrays in, no torch needed; see base.py for their three homes."""

from llmcore.widgets.attention import AttentionInspector
from llmcore.widgets.base import Widget
from llmcore.widgets.matrix import MatrixInspector
from llmcore.widgets.operation import OperationInspector
from llmcore.widgets.position import PositionExplorer
from llmcore.widgets.sampling import SamplingExplorer
from llmcore.widgets.tokenizers import TokenizerExplorer
from llmcore.widgets.trace import TraceExplorer
from llmcore.widgets.vocabulary import VocabularyExplorer

WIDGETS: dict[str, type[Widget]] = {
    "attention": AttentionInspector,
    "matrix": MatrixInspector,
    "operation": OperationInspector,
    "position": PositionExplorer,
    "sampling": SamplingExplorer,
    "tokenizer": TokenizerExplorer,
    "trace": TraceExplorer,
    "vocabulary": VocabularyExplorer,
}

__all__ = [
    "WIDGETS", "AttentionInspector", "MatrixInspector", "OperationInspector", "PositionExplorer", "SamplingExplorer",
    "TokenizerExplorer", "TraceExplorer", "VocabularyExplorer", "Widget",
]  # fmt: skip
