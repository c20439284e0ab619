"""The Sphinx extensions of the book, each one line in _config.yml."""
