"""Trust model `two_server`: secret shares to two servers that do not collude, and a dealer.

Source: He, Karimireddy and Jaggi, "Secure Byzantine-Robust Machine Learning" (2020); what goes past
it is said where it stands. n workers, up to f Byzantine, who may collude with one curious operator;
server 0 keeps the model, server 1 runs the rule, the dealer hands out randomness. Each of the three
follows the protocol but may keep all that it sees; no two of them collude: any two together see
every update. Not promised: a right result when a server lies.

plan.py has what all agree on, decide.py what the servers compute in the clear, and one file each is
the life of server 0, server 1, the dealer and a worker; the steps are in ostraka.protocols.
"""

from ostraka.trust.two_server.budget import Budget
from ostraka.trust.two_server.dealer import dealer
from ostraka.trust.two_server.plan import (
    Committed,
    Lost,
    Plan,
    Prepared,
    State0,
    State1,
    gram_rule,
    image_of,
)
from ostraka.trust.two_server.server_0 import server_0
from ostraka.trust.two_server.server_1 import server_1
from ostraka.trust.two_server.terms import expects, terms
from ostraka.trust.two_server.worker import worker

__all__ = [
    "Budget",
    "Committed",
    "Lost",
    "Plan",
    "Prepared",
    "State0",
    "State1",
    "dealer",
    "expects",
    "gram_rule",
    "image_of",
    "server_0",
    "server_1",
    "terms",
    "worker",
]
