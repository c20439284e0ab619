"""Widgets that open any matrix and explain any number. Arrays in, no torch needed; see base.py for their three homes."""

from llmcore.widgets.attention import AttentionInspector
from llmcore.widgets.base import Widget
from llmcore.widgets.descent import LossSurface, OptimizerRace
from llmcore.widgets.matrix import MatrixInspector
from llmcore.widgets.operation import OperationInspector
from llmcore.widgets.position import PositionExplorer
from llmcore.widgets.sampling import SamplingExplorer
from llmcore.widgets.tokenizers import TokenizerExplorer
from llmcore.widgets.trace import TraceExplorer
from llmcore.widgets.training import TrainingStep
from llmcore.widgets.vocabulary import VocabularyExplorer

WIDGETS: dict[str, type[Widget]] = {
    "attention": AttentionInspector,
    "matrix": MatrixInspector,
    "operation": OperationInspector,
    "position": PositionExplorer,
    "race": OptimizerRace,
    "sampling": SamplingExplorer,
    "surface": LossSurface,
    "tokenizer": TokenizerExplorer,
    "trace": TraceExplorer,
    "training": TrainingStep,
    "vocabulary": VocabularyExplorer,
}

__all__ = [
    "WIDGETS", "AttentionInspector", "LossSurface", "MatrixInspector", "OperationInspector", "OptimizerRace", "PositionExplorer",
    "SamplingExplorer", "TokenizerExplorer", "TraceExplorer", "TrainingStep", "VocabularyExplorer", "Widget",
]  # fmt: skip
