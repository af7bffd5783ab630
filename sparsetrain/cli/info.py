"""``sparsetrain info``: what is installed here, and what it will use."""

import json
from pathlib import Path
from typing import Any

import click
import torch
from sparsetrain_kernels.transpose import transpose_into

from .. import ops, patterns
from ..text_table import size
from .environment import cpu, threads, versions
from .options import DTYPES, fraction, shape


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--layer", type=shape, metavar="SHAPE", help="Say what computes such a layer: inputs x outputs x batch.")
@click.option("--density", type=fraction, default=0.1, show_default=True, help="Of that layer.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of its activations.")
@click.option("--device", default="cpu", show_default=True, help="Where it is.")
def info(as_json: bool, layer: tuple[int, int, int] | None, density: float, dtype: str, device: str) -> None:
    """Show versions, processor, threads and kernel cache; or what computes a layer.

    \b
    sparsetrain info
    sparsetrain info --layer 4096x4096x512 --density 0.8
    """
    if layer is not None:
        click.echo(_choice(layer, density, getattr(torch, dtype), device, as_json))
        return
    facts = _facts()
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(_lines(facts)))


def _choice(layer: tuple[int, int, int], density: float, dtype: torch.dtype, device: str, as_json: bool) -> str:
    """Which backend computes a layer, and why."""
    inputs, outputs, batch = layer
    topology = patterns.uniform((outputs, inputs), density, torch.Generator().manual_seed(0))
    try:
        chosen = ops.choice(topology, batch, dtype, device)
    except RuntimeError as error:
        raise click.BadParameter(str(error).partition("\n")[0], param_hint="'--device'") from None
    if as_json:
        return json.dumps(chosen._asdict(), indent=1)
    return f"forward    {chosen.backend}\nbackward   {chosen.gradients}\nbecause    {chosen.reason}"


def _facts() -> dict[str, Any]:
    return {
        "versions": versions(),
        "cpu": cpu(),
        "backends": {device: ops.backend_for(device, torch.float32) for device in ("cpu", "cuda")},
        "cuda_available": torch.cuda.is_available(),
        "threads": threads(),
        "kernel_cache": kernel_cache(),
    }


def kernel_cache() -> dict[str, Any]:
    """Where numba keeps compiled kernels: beside their sources, in NUMBA_CACHE_DIR, or in the home folder."""
    folder = Path(transpose_into.stats.cache_path)
    files = [file for file in folder.glob("*") if file.suffix in (".nbi", ".nbc")]
    return {"folder": str(folder), "files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def _lines(facts: dict[str, Any]) -> list[str]:
    processor, work, cache = facts["cpu"], facts["threads"], facts["kernel_cache"]
    cuda = f"{facts['backends']['cuda']} (" + ("a device is present)" if facts["cuda_available"] else "no device here)")
    widest = processor["widest_vector_bytes"]
    narrower = f" (SPARSETRAIN_VECTOR_BYTES; this CPU has {widest})" if processor["vector_bytes"] < widest else ""
    rows = {
        **facts["versions"],
        "CPU": f"{processor['model']}, {processor['cores']} cores",
        "CPU features": ", ".join(processor["features"]) or "none of those that matter",
        "vector width": f"{processor['vector_bytes']} bytes" + narrower,
        "backend on cpu": facts["backends"]["cpu"],
        "backend on cuda": cuda,
        "torch threads": work["torch"],
        "numba threads": f"{work['numba']} ({work['numba_layer']})",
        "kernel cache": cache["folder"],
        "kernel cache size": f"{size(cache['bytes'])} in {cache['files']} files",
    }
    width = max(map(len, rows))
    return [f"{name:<{width}}   {value}" for name, value in rows.items()]
