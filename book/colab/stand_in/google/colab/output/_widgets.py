"""Colab's switch for third-party widgets, without which a page of Colab shows nothing in their place.

Once it is on, the display publisher adds to each widget's metadata the address of the code that draws it.
anywidget adds the same by itself, and reads `_installed_url` for it.
"""

import sys

from IPython import get_ipython

VIEW = "application/vnd.jupyter.widget-view+json"
_installed_url: str | None = None
callers: list[str] = []  # the module of each call, the first cell being __main__


def enable_custom_widget_manager() -> None:
    global _installed_url
    callers.append(sys._getframe(1).f_globals["__name__"])
    if _installed_url is None:
        get_ipython().display_pub.register_hook(_mark)
    _installed_url = "https://colab.example/manager.js"


def _mark(message: dict) -> dict:
    content = message.get("content") or {}
    if VIEW in content.get("data", {}):
        content.setdefault("metadata", {})[VIEW] = {
            "colab": {"custom_widget_manager": {"url": _installed_url}}
        }
    return message
