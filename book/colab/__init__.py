"""A chapter as Colab runs it: the list of Colab's packages, stand-ins for its own, and the run."""
