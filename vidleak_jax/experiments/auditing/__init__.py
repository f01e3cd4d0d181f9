"""The audit: every applicable attack on one update, and one verdict.

`run` is what `vidleak audit` calls: a check of the update, the attacks by
expected yield a second, layers that leak most, bounds, and, where the client is
simulated, the recovery at other settings.
"""

from vidleak_jax.experiments.auditing.run import FILE, PAGE, run

__all__ = ['FILE', 'PAGE', 'run']
