"""Every widget by its kind, for code that handles all of them.

A chapter imports only the widgets that it shows, each from its own module.
"""

from llmcore.widgets.attention import AttentionInspector
from llmcore.widgets.base import Widget
from llmcore.widgets.collective import CollectiveSimulator
from llmcore.widgets.descent import LossSurface, OptimizerRace
from llmcore.widgets.matrix import MatrixInspector
from llmcore.widgets.operation import OperationInspector
from llmcore.widgets.pipeline import PipelineSchedule
from llmcore.widgets.planner import MemoryPlanner
from llmcore.widgets.position import PositionExplorer
from llmcore.widgets.sampling import SamplingExplorer
from llmcore.widgets.tokenizers import TokenizerExplorer
from llmcore.widgets.trace import TraceExplorer
from llmcore.widgets.training import TrainingStep
from llmcore.widgets.vocabulary import VocabularyExplorer

WIDGETS: dict[str, type[Widget]] = {
    "attention": AttentionInspector,
    "collective": CollectiveSimulator,
    "matrix": MatrixInspector,
    "operation": OperationInspector,
    "pipeline": PipelineSchedule,
    "planner": MemoryPlanner,
    "position": PositionExplorer,
    "race": OptimizerRace,
    "sampling": SamplingExplorer,
    "surface": LossSurface,
    "tokenizer": TokenizerExplorer,
    "trace": TraceExplorer,
    "training": TrainingStep,
    "vocabulary": VocabularyExplorer,
}
