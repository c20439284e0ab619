"""A chapter as Colab runs it: the list of Colab's packages, a stand-in for its own, and the run."""
