"""The library under the book.

Import from the module that holds the thing: `from llmcore.attention import Attention`.
"""
