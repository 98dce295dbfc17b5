"""What claims are measured on: the images, and how much of everything there is to be."""

from dataclasses import dataclass

from truenorm.lab.images.feed import ScaledImages
from truenorm.lab.jobs.trial import digest
from truenorm.record import installed_versions

FEWEST_EPOCHS = 3


@dataclass(frozen=True, slots=True)
class ClaimsContext(ScaledImages):
    """Images as trials read them, and the budget.

    Args:
        quick: a third of the training, and every second rate, unless a claim has its own measure of it.
    """

    quick: bool = False

    @property
    def digest(self) -> str:
        """Of what a trial's rows depend on beside the trial itself: pixels and versions."""
        return digest([self.pixels, installed_versions("truenorm", "torch")])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        _, channels, height, width = self.images.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Of the data set."""
        return len(self.images.classes)

    def epochs(self, images: int) -> int:
        """How often to go through the training images to show so many of them; three times at least.

        So a larger data set takes as long as a small one.
        """
        return max(FEWEST_EPOCHS, round(images / (3 if self.quick else 1) / len(self.images.train)))

    def steps(self, images: int, batch_size: int) -> int:
        """How many steps that takes."""
        return self.epochs(images) * len(self.feed("train", batch_size))

    def rates(self, lowest: int, highest: int) -> tuple[float, ...]:
        """Learning rates 2^lowest … 2^highest, each twice the last; when quick, four times."""
        return tuple(2.0**power for power in range(lowest, highest + 1, 2 if self.quick else 1))
