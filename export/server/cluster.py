"""The server's application as a Ray Serve deployment, for more than one machine's worth of work.

    serve run ray.yaml

Replicas, scaling and the artifact folder are in ray.yaml.
"""

from typing import Any

from ray import serve


@serve.deployment
@serve.ingress()
class Classifier:
    """One process with the model open, behind Ray's proxy."""

    def __init__(self, artifact: str, **settings: Any):
        self._artifact, self._settings = artifact, settings

    def __serve_build_asgi_app__(self) -> Any:
        # Only a replica opens the model: neither it nor the application can be sent to one.
        from app import Settings, create_app
        from model import open_model

        settings = Settings(**self._settings)
        return create_app(open_model(self._artifact, settings.threads), settings)


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the application of a configuration's `args`: `artifact`, and any of app.Settings."""
    return Classifier.bind(**arguments)
