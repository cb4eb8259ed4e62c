"""What an objective may know of target tokens, beside the logits.

No command: used by profit.objectives, whose token objectives turn it into weights and losses. Torch alone is needed.
"""

from dataclasses import dataclass

from torch import Tensor

TOP = 20
ROLES = ("core", "replaceable", "fixed", "end")


@dataclass(frozen=True)
class TokenStatistics:
    """What an objective may know of n target tokens; each a detached tensor (n,), None unless the objective needs it.

    `logprob` of the target (nats, fp32 or float64); `entropy` of the model's distribution there, and `top_entropy`,
    that of its TOP largest probabilities renormalised (nats); `reference`, the stored log-probability of the target
    under another model (nats); `draw`, uniform in [0, 1), float64 (profit.draws); `sequence`, int64, which sequence a
    token belongs to, from 0; `share`, the share of tokens to keep in this step, copied from a paired run; `role`,
    int64, the place in ROLES of the target's label.
    """

    logprob: Tensor
    entropy: Tensor | None = None
    top_entropy: Tensor | None = None
    reference: Tensor | None = None
    draw: Tensor | None = None
    sequence: Tensor | None = None
    share: float | None = None
    role: Tensor | None = None
