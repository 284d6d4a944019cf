"""What a run says of its result, in the summary beside the files."""

from typing import Any

import jax
import numpy as np

from jaxrecon.formats.judging import judge
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction


def facts_of(recon: Reconstruction, stages: Stages) -> dict[str, Any]:
    """Counts, field of view, warnings, times and sparsity of a reconstruction, as JSON has them."""
    views, height, width = recon.mask.shape
    judgement = judge(recon.scene())
    fov = judgement.fov[np.isfinite(judgement.fov)]
    sparsity = recon.stats.sparsity
    return {
        "model": recon.model,
        "device": jax.devices()[0].device_kind,
        "views": views,
        "width": width,
        "height": height,
        "points": int(recon.mask.sum()),
        "kept": round(judgement.kept_of_all, 4),
        "fov_degrees": round(float(np.median(fov)), 2) if len(fov) else None,
        "warnings": list(judgement.warnings),
        "seconds": {name: round(took, 3) for name, took in stages.seconds.items()},
        "sparsity": None if sparsity is None else np.asarray(sparsity).round(4).tolist(),
    }
