"""Training and quantisation-aware training of every network and task, by a TOML file: docs/training.md."""

from .config import ConfigError, Evaluation, Qat, RunConfig, Schedule, load_config
from .run import MODEL, train

__all__ = ["MODEL", "ConfigError", "Evaluation", "Qat", "RunConfig", "Schedule", "load_config", "train"]
