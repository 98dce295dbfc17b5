"""What a run of claims is told: plain values, no torch."""

from dataclasses import dataclass

from truenorm.errors import InvalidInput

SEEDS, QUICK_SEEDS = 10, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsConfig:
    """On what to measure claims, and how much.

    Example:
        >>> ClaimsConfig().num_seeds, ClaimsConfig(quick=True).num_seeds
        (10, 5)
    """

    data: str = "digits"
    """Data set: digits, mnist, fashion_mnist, cifar10, cifar100, a hub id, or a local folder."""
    data_root: str | None = None
    """Folder with local copies of data sets; else the environment's TRUENORM_DATA."""
    limit: int | None = None
    """Train on at most this many images (class shares kept)."""
    test_limit: int | None = None
    """Test on at most this many images (class shares kept)."""
    seeds: int | None = None
    """Repetitions, 5 at least; 10 unless said, and 5 when quick."""
    quick: bool = False
    """For a first look: less training, fewer learning rates, 5 seeds."""

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < QUICK_SEEDS:
            raise InvalidInput(
                f"--seeds is {self.seeds}; it takes {QUICK_SEEDS} or more: fewer can hardly show anything"
            )

    @property
    def num_seeds(self) -> int:
        """Repetitions of everything that is reported."""
        return self.seeds or (QUICK_SEEDS if self.quick else SEEDS)
