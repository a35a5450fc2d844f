"""`nexa verify-resume`: does a run of this recipe, cut and resumed, end where an undisturbed one ends?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nexa.verification.resume import Certificate


@click.command()
@click.argument("source", metavar="RECIPE")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--cuts", type=click.IntRange(min=1), default=3, show_default=True, help="How often to cut the run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the moments and signals.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(source: str, overrides: tuple[str, ...], cuts: int, seed: int, as_json: bool) -> int:
    """Train RECIPE undisturbed, then cut at random moments and resumed, and compare the two.

    A cut is a SIGTERM or SIGKILL to a worker while it trains, evaluates or saves. Compared are the loss,
    gradient norm and learning rate of every step, every evaluation, and every tensor of the checkpoints.
    Exit code 0: not a bit differs; 1: the first difference is named. Both runs stay, with the certificate.

    \b
    nexa verify-resume quickstart training.max_steps=20
    nexa verify-resume my.yaml --cuts 5 --seed 7
    """
    from nexa.cli.output import print_json
    from nexa.verification.resume import verify_resume

    def say(text: str) -> None:
        click.echo(text, err=as_json)

    certificate = verify_resume(source, overrides, cuts=cuts, seed=seed, say=say)
    if as_json:
        print_json(certificate.document())
    else:
        _print(certificate)
    return 0 if certificate.holds else 1


def _print(certificate: Certificate) -> None:
    from nexa import units
    from nexa.cli.output import table

    click.echo()
    table(
        ("cut", "signal", "while", "at step", "attempt ended", "continued from"),
        [
            (
                number,
                cut.signal,
                cut.phase,
                cut.step,
                cut.state,
                cut.resumed_from.rpartition("/")[2] if cut.resumed_from else "the beginning",
            )
            for number, cut in enumerate(certificate.cuts, 1)
        ],
    )
    found = certificate.comparison
    click.echo(
        f"\ncompared: {found.figures} figures; {found.tensors} tensors ({units.size(found.bytes)}) of the checkpoints "
        f"of steps {', '.join(map(str, found.checkpoints))}"
    )
    for warning in certificate.warnings:
        click.echo(f"note: {warning}")
    click.echo(f"result: {certificate.verdict}")
    click.echo(f"  runs: nexa show {certificate.reference}\n        nexa show {certificate.cut}")
