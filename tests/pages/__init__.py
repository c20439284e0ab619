"""The built book and its pages, tested."""
