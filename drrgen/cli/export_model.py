"""``drrgen export-model``: a trained encoder in the forms that others read."""

from pathlib import Path
from typing import Annotated

import typer

from drrgen.cli.console import exit_on_error


def export_model(
    model: Annotated[
        Path, typer.Argument(help="Folder of drrgen train, or CT-CLIP_v2.pt with --ct-clip.")
    ],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    onnx: Annotated[bool, typer.Option(help="Also write ONNX, checked against torch.")] = True,
    ct_clip: Annotated[
        bool, typer.Option("--ct-clip", help="Convert weights of CT-CLIP to safetensors.")
    ] = False,
) -> None:
    """Write the radiograph encoder of a training as safetensors and ONNX, with a model card.

    With --ct-clip: what inference needs of CT-CLIP's weights, in two files without pickle.

    Example: drrgen export-model RUN --to MODEL
    """
    with exit_on_error():
        if ct_clip:
            from drrgen_training.ctclip.load import convert

            written = list(convert(model, to))
        else:
            from drrgen_training.export import export_run

            written = export_run(model, to, with_onnx=onnx)
        for path in written:
            typer.echo(str(path))
