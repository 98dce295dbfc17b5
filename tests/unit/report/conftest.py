import pytest

from truenorm.record import Measurement, Record


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
                trials[trial] = {"norm": norm, "seed": seed}
                rows.append(Measurement(trial, arm, None, "accuracy", accuracy, None, num_test))
                rows.append(Measurement(trial, arm, None, "nll", 2 * (1 - accuracy), None, num_test))
        summary = {"name": "digits", "train": 1200, "validation": 240, "test": num_test}
        return Record(
            command="truenorm study",
            rows=(*rows, *extra),
            trials=trials,
            configuration={"data_summary": summary, "test_balanced": balanced, "reference": reference},
            notes=notes,
            complete=complete,
        )

    return make
