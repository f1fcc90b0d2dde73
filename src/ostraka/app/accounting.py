"""The privacy that a federation spends, in both views, as the federation file describes it."""

from __future__ import annotations

from ostraka.app.build import rule_of
from ostraka.app.config import Config
from ostraka.drivers.trace import Record
from ostraka.learn.privacy import PrivacySpent, noise_factor
from ostraka.learn.settings import Privacy


class Accountant:
    """Epsilon after so many rounds, for the party that is worst off.

    ``q`` is the greatest sampling rate of any party. The central epsilon is below the local one
    only where the mean adds the honest workers' noise up and nothing undoes that: no clip after
    the noise, one local step (unit example), and every worker in every round: who is away adds no
    noise, and with momentum a sum over changing workers shows more than one over the same.
    """

    def __init__(self, config: Config, q: float) -> None:
        own = config.privacy
        if own is None:
            raise ValueError("there is no [privacy] table to account for")
        self._unit, self._delta = own.unit, own.delta
        rule, pre = rule_of(config)
        training = config.training
        adds_up = rule.name == "mean" and not pre and training.clip is None
        if own.unit == "example" and training.local_steps > 1:
            adds_up = False
        factor = noise_factor([1.0] * config.n, config.f) if adds_up else 1.0
        settings = Privacy(own.unit, own.clip, own.noise_multiplier, own.delta)
        rounds, steps = config.federation.rounds, training.local_steps
        self._local = PrivacySpent(settings, rounds=rounds, local_steps=steps, q=q)
        self._central = PrivacySpent(
            settings, rounds=rounds, local_steps=steps, q=q, noise_factor=factor
        )

    def after(self, rounds: int, complete: bool = True) -> Record:
        """Both epsilons after so many rounds with an upload.

        ``complete``: no worker was missing or refused in any of them.
        """
        local = self._local.after(rounds)
        central = self._central.after(rounds) if complete else local
        return {
            "unit": self._unit,
            "delta": self._delta,
            "local": local,
            "central": min(central, local),
        }
