"""`truenorm env`."""


def env() -> None:
    """Versions, devices, and which backend normalises on each of them, with the reasons of those that do not.

    What to put into a report of a bug.
    """
    import torch

    from truenorm import __version__
    from truenorm.cli.terminal import console
    from truenorm.kernels.registry import BACKENDS, backend_for
    from truenorm.record import installed_versions, this_machine
    from truenorm.show import Table

    versions = {"truenorm": __version__, **installed_versions("torch", "triton", "numpy")}
    devices = {"cpu": str(this_machine()["processor"])}
    for number in range(torch.cuda.device_count()):
        devices[f"cuda:{number}"] = torch.cuda.get_device_name(number)
    if len(devices) == 1:
        versions["gpu"] = "none that torch sees" if torch.version.cuda else "none: this torch was built without CUDA"
    rows: list[tuple[str, ...]] = []
    for device in devices:
        x = torch.zeros(2, 3, 4, 4, device=device)
        for name, backend in BACKENDS.items():
            if name == "reference":
                continue
            chosen = backend is backend_for(x)
            rows.append(
                (device, name, "yes" if chosen else "no", "" if chosen else backend.refusal(x) or "after others")
            )
    console().print(
        Table(
            title="Environment",
            columns=("what", "which"),
            rows=(*versions.items(), *devices.items()),
            notes=() if "triton" in versions else ("triton is not installed: pip install 'truenorm[gpu]'",),
            text=("which",),
        )
    )
    console().print(
        Table(
            title="Backends: who normalises float32 images in eager mode",
            columns=("device", "backend", "used", "why not"),
            rows=tuple(rows),
            notes=(
                "While compiling, exporting or tracing it is aten everywhere: what is made then needs no truenorm.",
            ),
            text=("why not",),
        )
    )
