"""Marks of tests that trace or lower kernels in Pallas Triton, which leaves JAX."""

import re

import pytest

from pallas_kernels.pallas_triton import REFUSAL

needs_triton = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))

TRITON = pytest.param("triton", marks=needs_triton)
"""That backend among the parameters of a test."""

lowers_triton = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
"""For tests that lower for a GPU: jax 0.12 warns of each Triton kernel then."""

REFUSED_ON_CPU = re.escape(REFUSAL or "triton: needs an NVIDIA GPU, found cpu")
"""What a Triton backend asked for by name says here."""
