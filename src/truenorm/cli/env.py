"""`truenorm env`."""


def env() -> None:
    """Versions, devices, and which backend normalises on each of them, with the reasons of those that do not.

    What to put into a report of a bug.
    """
    import torch

    from truenorm import __version__
    from truenorm.cli.terminal import console
    from truenorm.install import install_line
    from truenorm.kernels.registry import BACKENDS, VARIABLE, backend_for, preferred
    from truenorm.record import installed_versions, this_machine
    from truenorm.show import Table

    machine = this_machine()
    libraries = ("torch", "triton", "numpy", "torchvision", "timm", "lightning", "transformers")
    versions = {"truenorm": __version__, **installed_versions(*libraries)}
    versions |= {"system": f"{machine['system']} {machine['architecture']}", "cuda": str(torch.version.cuda or "none")}
    devices = {"cpu": f"{machine['processor']}, {machine['cores']} cores, {torch.get_num_threads()} threads of torch"}
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        devices[f"cuda:{number}"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {about.major}.{about.minor}"
    if len(devices) == 1:
        built = torch.version.cuda or torch.version.hip
        versions["gpu"] = "none that torch sees" if built else "none: this torch was built for CPUs"
    rows: list[tuple[str, ...]] = []
    for device in devices:
        x = torch.zeros(2, 3, 4, 4, device=device)
        for name, backend in BACKENDS.items():
            if name == "reference":
                continue
            chosen = backend is backend_for(x)
            unasked = f"serves where it is asked for: {VARIABLE}=triton" if preferred() != name else "after others"
            reason = "" if chosen else backend.refusal(x) or (unasked if name != "aten" else "after others")
            rows.append((device, name, "yes" if chosen else "no", reason))
    console().print(
        Table(
            title="Environment",
            columns=("what", "which"),
            rows=(*versions.items(), *devices.items()),
            notes=() if "triton" in versions else (f"triton is not installed; run: {install_line('gpu', 'triton')}",),
            text=("which",),
        )
    )
    console().print(
        Table(
            title="Backends: who normalises float32 images in eager mode",
            columns=("device", "backend", "used", "why not"),
            rows=tuple(rows),
            notes=(
                "Of layers truenorm's ask this; torch's do after truenorm.convert(model).",
                f"Preferred: {preferred()}. The Triton kernels have never run on a GPU, and serve only where they are "
                f"asked for: {VARIABLE}=triton, or truenorm.kernels.prefer('triton').",
                "While compiling, exporting or tracing, under torch.func and in forward mode it is aten everywhere.",
            ),
            text=("why not",),
        )
    )
