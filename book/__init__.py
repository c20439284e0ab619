"""The machinery of the book: build it, print it, check that its chapters compute what they show.

`python -m book` is the command. Nothing here is needed to read a chapter or to use llmcore.
"""
