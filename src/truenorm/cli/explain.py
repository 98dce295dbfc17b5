"""`truenorm explain`."""


def explain(*, markdown: bool = False) -> None:
    """Walk through one batch-norm layer by hand: eight numbers in training, what is stored, and inference.

    Every number is computed when it is printed.

    Args:
        markdown: print it as Markdown; docs/explain.md is that.
    """
    from truenorm.cli.terminal import console
    from truenorm.lab.explain.layer import explain as walk

    found = walk()
    if markdown:
        print(found.markdown(), end="")
    else:
        console().print(found)
