"""A study's record as a page."""

from collections.abc import Sequence

from truenorm.lab.report.charts.forest import contrast_by_setting, difference_by_arm
from truenorm.lab.report.charts.score_by_momentum import score_by_momentum
from truenorm.lab.report.charts.shift_by_layer import shift_by_layer
from truenorm.lab.report.charts.shift_by_momentum import shift_by_momentum
from truenorm.lab.report.charts.training import during_training
from truenorm.lab.report.grid import overviews
from truenorm.lab.report.headline import grid_headline, headline, shift_sentence
from truenorm.lab.report.page import Section, Tables, page
from truenorm.lab.report.study_record import format_place
from truenorm.lab.report.summary import StudySummary
from truenorm.lab.report.tables import (
    arms_table,
    momentum_tables,
    network_tables,
    shift_tables,
    study_conclusion,
    sweep_tables,
)
from truenorm.show import Table


def study_page(summaries: Sequence[StudySummary]) -> str:
    """The page of a study: what was found, the tables, the charts, and how it was made.

    Args:
        summaries: of its settings.

    Returns:
        HTML, complete in itself.

    Raises:
        MissingExtra: what draws is not installed.
    """
    first, *others = summaries
    return page(
        _title(summaries),
        grid_headline(summaries) if others else headline(first),
        *study_sections(summaries),
        text=(*(() if others else shift_sentence(first)), study_conclusion(summaries)),
        settings=tuple(summary.setting.label for summary in summaries),
        record=first.study.record,
    )


def study_sections(found: Sequence[StudySummary]) -> tuple[Section, ...]:
    """What the page of these settings holds: of several an overview first."""
    return (*(_overview(found) if len(found) > 1 else ()), *_sections(found))


def _title(found: Sequence[StudySummary]) -> str:
    """What the settings have in common."""
    first = found[0].setting.values
    common = [axis for axis in first if all(summary.setting.values[axis] == first[axis] for summary in found)]
    seeds = sorted({len(summary.seeds) for summary in found})
    many = "1 seed" if seeds == [1] else f"{' to '.join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))} seeds"
    return " · ".join(["truenorm study", *(format_place(axis, first[axis]) for axis in common if first[axis]), many])


def _overview(found: Sequence[StudySummary]) -> tuple[Section, ...]:
    return (Section(heading="All settings", parts=(Tables(views=(overviews(found),)), *contrast_by_setting(found))),)


def _sections(found: Sequence[StudySummary]) -> tuple[Section, ...]:
    """Of each setting."""
    accuracy = Section(
        heading="What each way of having statistics gives",
        parts=(
            Tables(views=tuple((arms_table(summary, alone=len(found) == 1),) for summary in found)),
            *difference_by_arm(found),
            *_tables([network_tables(summary) for summary in found]),
        ),
    )
    momentum = Section(
        heading="Which momentum",
        parts=(
            *score_by_momentum(found),
            *shift_by_momentum(found),
            *_tables([momentum_tables(summary) for summary in found], "The momentum that each layer took"),
            *_tables([sweep_tables(summary) for summary in found], "Every momentum in figures"),
        ),
    )
    shift = Section(
        heading="How far from the population",
        parts=(*shift_by_layer(found), *_tables([shift_tables(summary) for summary in found])),
    )
    training = Section(heading="While it trained", parts=during_training(found))
    return tuple(section for section in (accuracy, momentum, shift, training) if section.parts)


def _tables(views: Sequence[Sequence[Table]], folded: str = "") -> tuple[Tables, ...]:
    """A part with tables, where some setting has one."""
    return (Tables(views=tuple(tuple(view) for view in views), folded=folded),) if any(views) else ()
