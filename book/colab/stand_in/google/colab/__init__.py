"""A stand-in for Colab's own package, so far as a chapter meets it: that it can be imported, and its module `output`.

Colab's has it too: `google` is a namespace, and `import google.colab` brings `google.colab.output`.
"""

import sys

from google.colab import output


def seen() -> dict:
    """For the test, after the last cell: who enabled the widget manager, and from where llmcore was imported."""
    return {
        "managers": output._widgets.callers,
        "llmcore_file": getattr(sys.modules.get("llmcore.device"), "__file__", ""),
    }
