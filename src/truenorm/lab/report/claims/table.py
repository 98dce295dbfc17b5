"""The claims of a record in the terminal, and the list of claims that there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from truenorm.lab.report.claims.record import ClaimsRecord
from truenorm.lab.report.claims.words import effect, headline, margin, otherwise
from truenorm.lab.report.wording import counted
from truenorm.show import Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from truenorm.lab.claims.claim import Claim

_STYLES = {"holds": "green", "does not hold": "red", "cannot tell": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsTable:
    """A row for each claim, and below it one for each of its comparisons; the primary one is marked.

    Args:
        claims: the parsed record and its verdicts.
    """

    claims: ClaimsRecord

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences below the table."""
        claims, images = self.claims, self.claims.images
        quick = claims.record.configuration.get("quick")
        return (
            f"{images.name}: {images.train:,} images to train on, {images.test:,} to test; "
            f"{counted(len(claims.seeds), 'seed')}; effects are means over seeds, with 95 % intervals.",
            "0, or ×1, is no effect; above is as the claim has it. Margin: the smallest that is worth its words.",
            "A claim's verdict is that of its primary comparison (*), chosen by its words alone.",
            f"Verdicts: two t tests of each comparison, 5 % for all {claims.family} of the catalogue together (Holm); "
            "an interval is of its comparison alone.",
            *(["A quick look: less training, and fewer learning rates, than the claims say."] if quick else []),
            *filter(None, [claims.lacking]),
            *(f"{each.claim.name}: {note}" for each in claims.verdicts for note in claims.notes_of(each.claim)),
            *claims.notes,
        )

    def __rich__(self) -> "RichTable":
        from rich import box
        from rich.padding import Padding
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=Text("what is said about batch norm", style="bold"),
            caption=Text("\n".join(self.notes)),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("#", justify="right")
        table.add_column("claim, and its comparisons", overflow="fold", min_width=24)
        table.add_column("verdict", no_wrap=True)
        table.add_column("effect (95 %)", no_wrap=True)
        table.add_column("margin", justify="right", no_wrap=True)
        for place, verdict in enumerate(self.claims.verdicts):
            claim = verdict.claim
            if place:
                table.add_row()
            table.add_row(
                Text(str(claim.number)),
                Text(claim.title, style="bold"),
                Text(verdict.ruling, style=f"bold {_STYLES[verdict.ruling]}"),
            )
            for found in verdict.findings:
                mark = " *" if found is verdict.primary else ""
                table.add_row(
                    "",
                    Padding(Text(found.part.name + mark), (0, 0, 0, 2)),
                    Text(found.ruling, style=_STYLES[found.ruling]),
                    Text(effect(found.effect, found.part.unit)),
                    Text(margin(found.part)),
                )
        return table


def claims_conclusion(claims: ClaimsRecord) -> str:
    """What is said below the table: how many claims hold, and in how many other comparisons differ."""
    return " ".join(filter(None, (headline(claims.verdicts), otherwise(claims.verdicts))))


def listing(claims: "Sequence[Claim]") -> Table:
    """The claims that there are."""
    return Table(
        title="what is said about batch norm",
        columns=("#", "name", "claim"),
        rows=tuple((str(claim.number), claim.name, claim.title) for claim in claims),
        notes=("truenorm claims NAME … measures those that are named; truenorm claims measures all.",),
        text=("name", "claim"),
    )
