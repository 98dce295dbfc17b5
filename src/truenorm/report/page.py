"""One page of HTML, complete in itself: no script, no network."""

from html import escape

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1.5rem 0 .3rem; display: block; overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child, td:last-child:not(:nth-child(2)) { text-align: left; }
th { border-bottom: 1px solid color-mix(in srgb, currentColor 30%, transparent); font-weight: 500; }
p { margin: .2rem 0; opacity: .75; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1.2rem; margin-top: 2rem; }
dt { font-weight: 600; }
dd { margin: 0; }
code { overflow-wrap: anywhere; }
"""


def page(title: str, body: str, *, command: str = "") -> str:
    """A page around tables that are HTML already.

    Args:
        title: of the page; text.
        body: HTML.
        command: what made it; text.

    Example:
        >>> page("diagnosis", "<p>…</p>").startswith("<!doctype html>")
        True
    """
    made = f"<p><code>{escape(command)}</code></p>" if command else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}{made}</body></html>\n"
    )
