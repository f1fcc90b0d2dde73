"""Attacks: what Byzantine parties send, each with what it knows and what it controls."""

from ostraka.attacks.api import DataAttack, UpdateAttack
from ostraka.attacks.data import LabelFlip
from ostraka.attacks.gathers import worst_gather
from ostraka.attacks.peers_deal import DEALING_ATTACKS
from ostraka.attacks.peers_say import SAYING_ATTACKS
from ostraka.attacks.servers import SERVER_ATTACKS, ServerAttack
from ostraka.attacks.updates import (
    ALIE,
    IPM,
    Gaussian,
    Huge,
    Inf,
    Mimic,
    NaN,
    SignFlip,
    Zero,
)

ATTACKS: dict[str, type[UpdateAttack] | type[DataAttack]] = {
    "sign-flip": SignFlip,
    "gaussian": Gaussian,
    "alie": ALIE,
    "ipm": IPM,
    "mimic": Mimic,
    "zero": Zero,
    "inf": Inf,
    "nan": NaN,
    "huge": Huge,
    "label-flip": LabelFlip,
}

__all__ = [
    "ALIE",
    "ATTACKS",
    "DEALING_ATTACKS",
    "IPM",
    "SAYING_ATTACKS",
    "SERVER_ATTACKS",
    "DataAttack",
    "Gaussian",
    "Huge",
    "Inf",
    "LabelFlip",
    "Mimic",
    "NaN",
    "ServerAttack",
    "SignFlip",
    "UpdateAttack",
    "Zero",
    "worst_gather",
]
