"""What may happen to a training image: each policy by name, as data.

`windows`, `colours`, `randaugment` and `mixing` carry it out, and need TensorFlow; this does not.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from keras_cnns.errors import UsageError, suggest


class Policy(NamedTuple):
    """Which part of an image is seen, and how its colours change.

    Attributes:
        pad: by which part of its size an image is moved at most, over black.
        area: from which to which part of its area is cut out, with sides of 3/4 to 4/3.
        side: the short side that the image is resized to, at least and at most, where what is cut
            out of it has `CROP` pixels a side; other sizes in proportion.
        centred: whether what is cut out lies in the square in the middle.
        mirror: whether one image in two is mirrored.
        colour: by how much light, contrast and saturation change at most, in random order.
        pca: the standard deviation of the changes along the principal components of colour.
    """

    pad: float = 0.0
    area: tuple[float, float] | None = None
    side: tuple[int, int] | None = None
    centred: bool = False
    mirror: bool = False
    colour: float = 0.0
    pca: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether a part of the image is cut out, which is best done where all of it is there."""
        return bool(self.area or self.side)


CROP = 224

AUGMENTATIONS: Mapping[str, Policy] = MappingProxyType(
    {
        "none": Policy(),
        # For what must not be mirrored: writing.
        "shift": Policy(pad=1 / 8),
        # He et al., Deep Residual Learning, 2015, section 4.2: 4 pixels around 32.
        "crop": Policy(pad=1 / 8, mirror=True),
        # What torchvision's and timm's trainings do, without more: RandomResizedCrop and a flip.
        "resized_crop": Policy(area=(0.08, 1.0), mirror=True),
        # Inception's, as far as a short training bears it.
        "photo": Policy(area=(0.35, 1.0), mirror=True, colour=0.2),
        # Szegedy et al., Going Deeper with Convolutions, 2014, section 6, which for the colours
        # refers to Howard, Some Improvements on Deep CNN Based Image Classification, 2013.
        "inception": Policy(area=(0.08, 1.0), mirror=True, colour=0.5),
        # Krizhevsky et al., ImageNet Classification with Deep CNNs, 2012, section 4.1.
        "alexnet": Policy(side=(256, 256), centred=True, mirror=True, pca=0.1),
        # Simonyan and Zisserman, Very Deep Convolutional Networks, 2014, section 3.1.
        "vgg": Policy(side=(256, 512), mirror=True, pca=0.1),
        "vgg256": Policy(side=(256, 256), mirror=True, pca=0.1),
        "vgg384": Policy(side=(384, 384), mirror=True, pca=0.1),
    }
)


def get(name: str) -> Policy:
    """Return a policy by its name.

    >>> get("crops")
    Traceback (most recent call last):
    keras_cnns.errors.UsageError: no augmentation "crops": use ...; did you mean "crop"?

    Raises:
        UsageError: the name is none of `AUGMENTATIONS`.
    """
    if name not in AUGMENTATIONS:
        *names, last = AUGMENTATIONS
        allowed = f"{', '.join(names)} or {last}"
        raise UsageError(f'no augmentation "{name}": use {allowed}{suggest(name, AUGMENTATIONS)}')
    return AUGMENTATIONS[name]
