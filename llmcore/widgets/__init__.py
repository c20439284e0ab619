"""Widgets that open any matrix and explain any number. Arrays in, no torch needed; see base.py for their
three homes.

A chapter imports a widget from its module (`from llmcore.widgets.matrix import MatrixInspector`), and so
rests on that one alone.
"""
