"""Colab's switch for widgets of other makers: without it a page of Colab shows nothing where such a widget stands.

Once it is on, what is displayed says in its metadata where the page finds the code that draws widgets: the display publisher adds it.
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
