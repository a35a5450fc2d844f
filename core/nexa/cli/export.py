"""`nexa export`: a checkpoint's model as a folder for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from nexa.cli.talk import CHECKPOINT_HELP


@click.command(epilog=CHECKPOINT_HELP)
@click.argument("reference", metavar="CHECKPOINT")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Add the adapter's update to its base model's weights.")
@click.option("--store", "store_uri", metavar="URI", help="Artifact store to look in instead of the one in settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(reference: str, destination: Path, merge: bool, store_uri: str | None, as_json: bool) -> None:
    """Write a checkpoint's model into the new folder DEST, without trainer state.

    The folder loads in plain transformers, or in PEFT where the checkpoint is an adapter. With --merge the adapter
    becomes part of its base model; that the merged model gives the same logits is shown before DEST appears.
    """
    from nexa.checkpoints import find_checkpoint
    from nexa.cli.output import print_json
    from nexa.exporting import export_checkpoint
    from nexa.text import sanitize_line
    from nexa.units import size

    checkpoint = find_checkpoint(
        reference, store_uri=store_uri, warn=lambda text: click.echo(f"warning: {text}", err=True)
    )
    click.echo(f"exporting {sanitize_line(checkpoint.name)} …", err=True)
    exported = export_checkpoint(checkpoint, destination, merge=merge)
    if as_json:
        print_json({"folder": str(exported.folder), "hash": exported.meta.hash, **exported.proof})
        return
    proof = exported.proof
    if "largest_difference" in proof:
        click.echo(
            f"merged into {sanitize_line(str(proof['base']))}: logits of {proof['prompts']} prompts differ by "
            f"{proof['largest_difference']:.2g} of the largest, {proof['tolerance']:.2g} is allowed"
        )
    click.echo(f"{exported.folder}  {size(exported.meta.bytes)}  {exported.meta.hash}")
