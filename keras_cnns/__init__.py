"""The classic convolutional networks in Keras: built from blocks, priced, searched, exported."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_cnns.builder import build
    from keras_cnns.fusion import fuse
    from keras_cnns.fusion.predictor import predictor
    from keras_cnns.pyramid import features
    from keras_cnns.zoo import list_models

__version__ = "0.1.0"
__all__ = ["__version__", "build", "features", "fuse", "list_models", "predictor"]

_PLACES = {
    "build": "keras_cnns.builder",
    "features": "keras_cnns.pyramid",
    "fuse": "keras_cnns.fusion",
    "list_models": "keras_cnns.zoo",
    "predictor": "keras_cnns.fusion.predictor",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'keras_cnns' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
