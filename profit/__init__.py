"""ProFit (arXiv 2601.09195) replicated, tested and compared: one study file, one command, every figure."""

__version__ = "0.1.0"
