"""What lies here is laid into an environment by tests/colab_run.py and is no module of the tests."""

collect_ignore_glob = ["*"]
