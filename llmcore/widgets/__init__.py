"""Widgets that open any matrix and explain any number; they take arrays and need no torch (see base.py).

A chapter imports each widget from its own module (`from llmcore.widgets.matrix import MatrixInspector`), so
that only a change to that widget makes the chapter stale.
"""
