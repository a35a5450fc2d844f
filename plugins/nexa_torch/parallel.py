"""The group of worker processes; see `nexa_torch.distributed`."""

from nexa_torch.distributed.process_group import process_group
from nexa_torch.distributed.ranks import Ranks

__all__ = ["Ranks", "process_group"]
