"""ProFit (arXiv 2601.09195) replicated, tested and compared: one study file, one command, every figure.

    from profit import ProFitTrainer, token_loss

What other people's code takes home is imported when it is first asked for: `import profit` needs nothing, the loss
torch alone, the trainer transformers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "LMHead": "profit.logits",
    "OBJECTIVES": "profit.objectives",
    "ObjectiveMixin": "profit.trainer",
    "ProFitTrainer": "profit.trainer",
    "check_objective": "profit.objectives",
    "fuse_head": "profit.fuse",
    "token_loss": "profit.head",
    "token_statistics": "profit.logits",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
