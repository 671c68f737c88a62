"""Many structures: each a task that is tried again, in one process or over the workers of a Dask cluster."""

from __future__ import annotations

from ase_deeph.workflow.predictions import Settings, predict_all
from ase_deeph.workflow.structures import named_structures
from ase_deeph.workflow.tasks import Outcome, Workers, run_all

__all__ = ["Outcome", "Settings", "Workers", "named_structures", "predict_all", "run_all"]
