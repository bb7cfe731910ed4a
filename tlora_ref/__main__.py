"""python -m tlora_ref JOB: see ``--help`` for the jobs."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from .shapes import InputError
from .terminal import INTERRUPTED, exit_code, forgive_output, watch_interrupts

JOBS = {
    "demo": "Run the main job: check the gradients, train on digits, turn the digits and adapt to them.",
    "check": "Check hand-written gradients against oracles: all of this project's, or a pair of yours.",
    "mutants": "Show which seeded gradient bugs the common gradient checkers find, and which they miss.",
    "count": "Count what a method trains, stores and keeps in the optimizer, for a known model or any width.",
    "compare": "Compare every method of the family on turned digits, at usual ranks and at equal counts.",
    "text": "Adapt MiniLM, a real language model, to the kinds of answers that questions ask for.",
    "course": "Write the tutorials as students get them, and with --instructor what a teacher needs.",
    "audit": "Measure the paper's claims, draw its figures again, and put a verdict on each claim.",
    "subspace": "Measure what TLoRA's random subspace costs, and what a chosen one gains.",
    "bench": "Measure speed and memory of layers, of the encoder by hand and of a gradient check.",
    "glue": "Run the paper's experiment: a transformers model on a GLUE task, in one process or many.",
    "export": "Turn an adapter file into a LoRA that Hugging Face PEFT loads.",
    "mutate": "Edit a file of kernels in every mechanical way: the suite must find each edit. For developers.",
    "fuzz": "Damage adapter files and checkpoints by the thousand: each must be refused in a sentence.",
}

HOMES = {"course": ".course.job"}
"""Where a job lives; the others are files of lab/jobs."""

EXTRAS = {
    "torch": "torch",
    "peft": "test",
    "transformers": "test",
    "mpmath": "test",
    "pytest": "test",
    "hypothesis": "test",
    "nbformat": "tutorials",
    "nbconvert": "tutorials",
}
"""The optional dependency set that brings a package; "demo" brings the others."""

OF_JOB = {"glue": "glue", "text": "real"}
"""The jobs that have a set of their own, with all that they need."""


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line. Of the jobs' modules only the chosen one is imported, and adds its own arguments."""
    parser = argparse.ArgumentParser(
        prog="tlora-ref",
        description="TLoRA from scratch: W' = W0 + alpha * A @ B @ C, where only B and alpha are trained.",
        epilog="Every job explains itself: python -m tlora_ref JOB --help.",
    )
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    for name, summary in JOBS.items():
        job = jobs.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            module = import_module(HOMES.get(name, f".lab.jobs.{name}"), __package__)
            job.description = module.__doc__
            module.add_arguments(job)
            job.set_defaults(run=module.run)
    return parser


def chosen_job(argv: list[str]) -> str | None:
    """The first word that is no option."""
    return next((word for word in argv if not word.startswith("-")), None)


def main(argv: list[str] | None = None) -> int:
    """Run one job. Exit code 0: done; 1: a check failed; 2: what was given cannot be used; 130: interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    chosen = chosen_job(argv)
    try:
        args = build_parser(chosen).parse_args(argv)
        return args.run(args)
    except InputError as error:
        print(f"tlora-ref {chosen}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == __package__:
            raise
        extra = OF_JOB.get(chosen or "") or EXTRAS.get(package, "demo")
        print(f"tlora-ref {chosen}: this job needs {package}; pip install 'tlora_ref[{extra}]'", file=sys.stderr)
        return 2
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"tlora-ref {chosen}: {where}{reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"tlora-ref {chosen}: interrupted", file=sys.stderr)
        return INTERRUPTED


def command() -> None:
    """The job of the command line, and the end of the process. Exit codes of ``main``, and 141 where the reader of the
    output was gone before its end."""
    output, called = forgive_output(), f"tlora-ref {chosen_job(sys.argv[1:])}"
    interruption_said = watch_interrupts(f"{called}: interrupted")
    try:
        code = main()
    except SystemExit as end:  # argparse, after --help and after its messages
        code = end.code if isinstance(end.code, int) else 0
    if code == INTERRUPTED:
        interruption_said.set()
    sys.exit(exit_code(code, output, called))


if __name__ == "__main__":
    command()
