"""Keeps the built book to its own files: Jupyter Book loads sphinx-thebe, whose script points at another host, unasked."""


def setup(app):
    """Take out every listener that sphinx-thebe has registered; the pages run in Colab or locally, not through Thebe."""
    app.connect("config-inited", remove_thebe, priority=1)
    return {"parallel_read_safe": True}


def remove_thebe(app, config):
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = [x for x in listeners if not getattr(x.handler, "__module__", "").startswith("sphinx_thebe")]
    app.registry.css_files = [(name, attributes) for name, attributes in app.registry.css_files if name != "sphinx-thebe.css"]
