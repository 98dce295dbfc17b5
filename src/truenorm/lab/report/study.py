"""A study's record as a page."""

from collections.abc import Sequence

from truenorm.errors import extra
from truenorm.lab.report.class_tables import class_table
from truenorm.lab.report.figure import Figure
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


def study_figures(summaries: Sequence[StudySummary]) -> list[Figure]:
    """Every chart of the page."""
    return [figure for section in study_sections(summaries) for figure in section.figures]


def study_sections(summaries: Sequence[StudySummary]) -> tuple[Section, ...]:
    """What the page of these settings holds: of several an overview first."""
    with extra("report"):
        from truenorm.lab.report.charts.confusion import confusion_maps
        from truenorm.lab.report.charts.forest import contrast_by_setting, difference_by_arm
        from truenorm.lab.report.charts.score_by_momentum import score_by_momentum
        from truenorm.lab.report.charts.shift_by_layer import shift_by_layer
        from truenorm.lab.report.charts.shift_by_momentum import shift_by_momentum
        from truenorm.lab.report.charts.training import during_training

    several = len(summaries) > 1
    sections = (
        Section(
            heading="All settings",
            parts=(Tables(views=(overviews(summaries),)), *contrast_by_setting(summaries)) if several else (),
        ),
        Section(
            heading="What each way of having statistics gives",
            parts=(
                *_tables([[arms_table(summary, alone=not several)] for summary in summaries]),
                *difference_by_arm(summaries),
                *_tables([network_tables(summary) for summary in summaries]),
            ),
        ),
        Section(
            heading="Class by class",
            parts=(*_tables([class_table(summary) for summary in summaries]), *confusion_maps(summaries)),
        ),
        Section(
            heading="Which momentum",
            parts=(
                *score_by_momentum(summaries),
                *shift_by_momentum(summaries),
                *_tables([momentum_tables(summary) for summary in summaries], "The momentum that each layer took"),
                *_tables([sweep_tables(summary) for summary in summaries], "Every momentum in figures"),
            ),
        ),
        Section(
            heading="How far from the population",
            parts=(*shift_by_layer(summaries), *_tables([shift_tables(summary) for summary in summaries])),
        ),
        Section(heading="While it trained", parts=during_training(summaries)),
    )
    return tuple(section for section in sections if section.parts)


def _title(summaries: Sequence[StudySummary]) -> str:
    """What the settings have in common."""
    first, *others = [summary.setting.values for summary in summaries]
    common = {axis: place for axis, place in first.items() if all(other[axis] == place for other in others)}
    num_seeds = sorted({len(summary.seeds) for summary in summaries})
    counted = " to ".join(str(num) for num in dict.fromkeys((num_seeds[0], num_seeds[-1])))
    seeds = f"{counted} seed{'' if num_seeds == [1] else 's'}"
    return " · ".join(
        ["truenorm study", *(format_place(axis, place) for axis, place in common.items() if place), seeds]
    )


def _tables(views: Sequence[Sequence[Table]], folded: str = "") -> tuple[Tables, ...]:
    """A part with tables, where some setting has one."""
    return (Tables(views=tuple(tuple(view) for view in views), folded=folded),) if any(views) else ()
