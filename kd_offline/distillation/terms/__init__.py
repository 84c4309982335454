"""Registry of loss terms by name; see :mod:`kd_offline.distillation.terms.base`.

Terms are computed, and their losses summed, in the order of this table; plug-ins follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kd_offline.registry import Registry

if TYPE_CHECKING:
    from kd_offline.distillation.terms.base import LossTerm

_HERE = "kd_offline.distillation.terms"

TERMS: Registry[type[LossTerm[Any]]] = Registry(
    "loss term",
    "kd_offline.terms",
    {
        "kl": f"{_HERE}.kl:KL",
        "ce": f"{_HERE}.cross_entropy:CrossEntropy",
        "regression": f"{_HERE}.regression:Regression",
        "policy": f"{_HERE}.policy_gradient:PolicyGradient",
        "entropy": f"{_HERE}.entropy:Entropy",
        "structure": f"{_HERE}.structure:Structure",
        "role": f"{_HERE}.role:Role",
        "privileged_embedding": f"{_HERE}.privileged_embedding:PrivilegedEmbedding",
        "feature": f"{_HERE}.feature:Feature",
        "one_hot": f"{_HERE}.one_hot:OneHot",
        "q_values": f"{_HERE}.q_values:QValues",
        "logits": f"{_HERE}.logits:Logits",
        "angle": f"{_HERE}.angle:Angle",
        "relation_attention": f"{_HERE}.relation_attention:RelationAttention",
        "mixer": f"{_HERE}.mixer:Mixer",
        "hidden_features": f"{_HERE}.hidden_features:HiddenFeatures",
        "neighbours": f"{_HERE}.neighbours:NeighbourKL",
        "teachers": f"{_HERE}.teachers:TeacherKL",
    },
)
