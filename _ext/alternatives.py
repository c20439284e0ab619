"""A figure's alternative text, from where a cell states it: display(figure, metadata={"image/png": {"alt": ...}}).

MyST-NB reads width and height there and leaves the rest; it writes the file's name into the page instead.
"""

import hashlib
from base64 import b64decode
from pathlib import Path

import nbformat
from docutils import nodes


def setup(app):
    app.connect("doctree-read", name)
    return {"parallel_read_safe": True}


def name(app, doctree):
    """MyST-NB names an image's file by the hash of its bytes, which tells the output that it came from."""
    path = Path(app.env.doc2path(app.env.docname))
    images = [node for node in doctree.findall(nodes.image) if not node.get("alt")]
    if path.suffix != ".ipynb" or not images:
        return
    said = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for kind in [k for k in output.get("data", {}) if k.startswith("image/")]:
                data = output.data[kind]
                data = "\n".join(data.splitlines()).encode() if kind == "image/svg+xml" else b64decode(data)
                said[hashlib.sha256(data).hexdigest()] = output.get("metadata", {}).get(kind, {}).get("alt", "")
    for node in images:
        if said.get(Path(node["uri"]).stem):
            node["alt"] = said[Path(node["uri"]).stem]
