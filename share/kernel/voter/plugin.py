"""The voters that ship with Pixelis; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl

HERE = "share.kernel.voter"


@hookimpl
def register_voters(register: Register) -> None:
    register("confidence", f"{HERE}.confidence:ConfidenceVoter", summary="A vote weighs its stated confidence.")
    register("ensemble", f"{HERE}.ensemble:EnsembleVoter", summary="The mean of majority, weighted and confidence.")
    register("majority", f"{HERE}.majority:MajorityVoter", summary="Every source has one vote.")
    register("weighted", f"{HERE}.weighted:WeightedVoter", summary="Near, reliable, recent and sure votes weigh more.")
