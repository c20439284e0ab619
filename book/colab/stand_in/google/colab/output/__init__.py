"""Of Colab's functions for a cell's output, the one that our first cell calls."""

from google.colab.output import _widgets
from google.colab.output._widgets import enable_custom_widget_manager

__all__ = ["_widgets", "enable_custom_widget_manager"]
