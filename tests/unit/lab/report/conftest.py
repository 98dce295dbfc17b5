import pytest

from truenorm.record import Measurement, Record

CELL = {"data": "digits", "network": "mlp", "batch_size": 32, "schedule": "cosine"}


@pytest.fixture
def record():
    """Make a study's record by hand: arm → the accuracy of each seed (None: that trial is missing)."""

    def make(accuracies, *, extra=(), num_test=1000, notes=(), complete=True, reference="training", balanced=True):
        rows, trials = [], {}
        for arm, values in accuracies.items():
            norm = arm if arm in ("bn-bfn", "gn") else "bn"
            for seed, accuracy in enumerate(values):
                if accuracy is None:
                    continue
                trial = f"{norm}{seed}"
                trials[trial] = {"norm": norm, "seed": seed, **CELL}
                rows.append(Measurement(trial, arm, None, "accuracy", accuracy, None, num_test))
                rows.append(Measurement(trial, arm, None, "nll", 2 * (1 - accuracy), None, num_test))
        images = {"train": 1200, "validation": 240, "test": num_test, "imbalance": 1.0, "balanced": balanced}
        return Record(
            command="truenorm study",
            rows=(*rows, *extra),
            trials=trials,
            configuration={"images": {"digits": images}, "reference": reference},
            notes=notes,
            complete=complete,
        )

    return make
