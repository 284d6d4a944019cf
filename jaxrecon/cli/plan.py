"""`jaxrecon plan -m pi3 --views 100 --size 518x392`."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common

if TYPE_CHECKING:
    from jaxrecon.plan import MemoryPlan


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("plan", help="memory that a reconstruction will need")
    add = parser.add_argument
    add("-m", "--model", default="pi3", help="a model's name, checkpoint folder or weight file")
    common.add_program(parser)
    common.add_computing(parser)
    add("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compiles the program and prints what it needs."""
    size = common.size_of(options.size)
    common.check_sharded(options)
    from jaxrecon.plan import memory_plan

    mesh = common.mesh_of(options.devices)
    plan = memory_plan(
        options.model,
        views=options.views,
        size=size,
        devices=1 if mesh is None else mesh.size,
        shard_weights=options.shard_weights,
        attention=common.attention_of(options),
        dtype=options.dtype,
    )
    sys.stdout.write((json.dumps(_summary(plan)) if options.json else _text(plan)) + "\n")
    return 0


def _summary(plan: "MemoryPlan") -> dict[str, Any]:
    """The plan as JSON has it; numbers of bytes are those of each device."""
    total = {"total": plan.needs.total}
    return asdict(plan) | {"needs": asdict(plan.needs) | total, "fits": plan.fits}


def _text(plan: "MemoryPlan") -> str:
    from jaxrecon.memory import readable

    width, height = plan.size
    padding = plan.compiled_views - plan.views
    added = f" and {padding} of padding" if padding else ""
    needs, limit = plan.needs, plan.limit
    answers = {True: "it fits", False: "it does not fit", None: "this device does not tell"}
    rows = {
        "arguments": readable(needs.arguments),
        "outputs": readable(needs.outputs),
        "temporaries": readable(needs.temporaries),
        "total": readable(needs.total),
        "limit": answers[None] if limit is None else f"{readable(limit)}: {answers[plan.fits]}",
    }
    first = (
        f"{plan.model}, {plan.views} views{added}, {width}x{height} pixels; "
        f"on each of {plan.devices} x {plan.device_kind}:"
    )
    return "\n".join([first, *(f"{name:>12}  {value}" for name, value in rows.items())])
