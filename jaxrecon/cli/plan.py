"""`jaxrecon plan pi3 --views 100 --size 518x392`."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common, streaming
from jaxrecon.cli.parser import Parser
from jaxrecon.cli.process import say

if TYPE_CHECKING:
    from jaxrecon.plan import MemoryPlan
    from jaxrecon.runtime.memory import MemoryNeeds


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser: Parser = commands.add_parser("plan", help="memory that a reconstruction will need")
    add = parser.add_argument
    told = f"{common.MODEL_HELP}; default: {common.DEFAULT_MODEL}"
    common.add_first_model(parser, told)
    common.add_program(parser)
    add(
        "--tracks",
        type=common.at_least_one,
        metavar="N",
        help="VGGT: follow N points of every eighth photo",
    )
    common.add_computing(parser)
    streaming.add_streaming(parser)
    add("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compiles the program and prints what it needs."""
    common.settle_model(options, common.DEFAULT_MODEL)
    size = common.size_of(options.size)
    common.check_sharded(options)
    streaming.check_views_at_once(options)
    from jaxrecon.plan import memory_plan

    mesh = common.mesh_of(options.devices)
    plan = memory_plan(
        options.model,
        views=options.views,
        size=size,
        tracks=options.tracks,
        devices=1 if mesh is None else mesh.size,
        shard_weights=options.shard_weights,
        offload=options.offload,
        float8=options.float8,
        attention=common.attention_of(options),
        dtype=options.dtype,
        views_at_once=streaming.views_at_once(options),
        priors=False,
    )
    say(json.dumps(_summary(plan)) if options.json else _text(plan))
    return 0


def _summary(plan: "MemoryPlan") -> dict[str, Any]:
    """The plan as JSON has it; numbers of bytes are those of each device."""
    told = asdict(plan) | {"needs": _needs(plan.needs), "fits": plan.fits}
    if plan.streamed is not None:
        told["streamed"] |= {
            "encoder": _needs(plan.streamed.encoder),
            "heads": _needs(plan.streamed.heads),
        }
    return told


def _needs(needs: "MemoryNeeds") -> dict[str, int]:
    return asdict(needs) | {"total": needs.total}


def _text(plan: "MemoryPlan") -> str:
    from jaxrecon.runtime.memory import readable

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
        **({"on the host": _hosted(plan)} if needs.host else {}),
        "limit": answers[None] if limit is None else f"{readable(limit)}: {answers[plan.fits]}",
    }
    points = "" if plan.tracks is None else f", {plan.tracks} points of every eighth view"
    first = (
        f"{plan.model}, {plan.views} views{added}, {width}x{height} pixels{points}; "
        f"on each of {plan.devices} x {plan.device_kind}:"
    )
    rows = _streamed_rows(plan) | rows
    if plan.chunks:
        rows["at a time"] = ", ".join(
            f"{size:,} of {of:,} {what}" for what, (size, of) in sorted(plan.chunks.items())
        )
    return "\n".join([first, *(f"{name:>12}  {value}" for name, value in rows.items())])


def _hosted(plan: "MemoryPlan") -> str:
    """What waits in the host's memory, of what may."""
    from jaxrecon.runtime.memory import readable

    limit = plan.host_limit
    return readable(plan.on_host) + (f" of {readable(limit)}" if limit is not None else "")


def _streamed_rows(plan: "MemoryPlan") -> dict[str, str]:
    """What streaming needs, above the numbers of the program that needs more."""
    from jaxrecon.runtime.memory import readable

    streamed = plan.streamed
    if streamed is None:
        return {}
    which = "encoder" if streamed.encoder == plan.needs else "heads"
    return {
        "encoder": readable(streamed.encoder.total),
        "heads": f"{readable(streamed.heads.total)} for {streamed.views_at_once} views at once",
        "between": f"{readable(streamed.between)} beside the weights",
        "the larger": which,
    }
