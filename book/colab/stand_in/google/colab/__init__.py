"""A stand-in for Colab's own package with what a chapter uses of it: it can be imported, and it has `output`.

As in Colab, `google` is a namespace package, and `import google.colab` also imports `google.colab.output`.
"""

import sys

from google.colab import output


def seen() -> dict:
    """For the check after the last cell: who enabled the widget manager, and where llmcore came from."""
    return {
        "managers": output._widgets.callers,
        "llmcore_file": getattr(sys.modules.get("llmcore.device"), "__file__", ""),
    }
