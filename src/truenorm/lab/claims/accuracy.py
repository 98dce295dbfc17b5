"""Accuracy on test images, as several claims judge and show it: shares of a whole that come image by image."""

from functools import partial

from truenorm.lab.claims.claim import Column, Part, Picture

ACCURACY = Column(metric="accuracy", heading="accuracy %", unit="points", digits=2)

accuracy_part = partial(Part, unit="points", resolution="one image")
"""A comparison of accuracies."""

accuracy_picture = partial(Picture, metric="accuracy", y="accuracy on test images, %", unit="points")
"""A chart of the accuracy."""
