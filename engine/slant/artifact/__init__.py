"""The quantized artifact: a folder that is a whole classifier, with its recipe, certificate and self-test.

A leaf: nothing here knows an architecture, an engine or a measurement.
"""

MANIFEST = "artifact.json"  # the file that makes a folder an artifact
