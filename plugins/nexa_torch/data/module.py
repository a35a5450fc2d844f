"""The contract of a data module: where batches come from. `GlobalSampler` is how they are ordered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from nexa.backend import PrepareProgress
from nexa_torch.data.order import rows_at

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

OnProgress = PrepareProgress
"""Called as (phase, done, total) with phase "loading", "waiting" or "tokenizing", total None where it is not known;
raises to stop the run."""


class BaseDataModule(ABC):
    """Where batches come from.

    recipe: the run's recipe; `options` its section of the task's name. on_progress: set by the engine;
    long work reports to it, so that a person sees it and a stop request ends it.
    """

    prefetch: ClassVar[bool] = False
    """Whether the next batches may be loaded in a thread while a step computes; only where loading draws
    no random numbers from torch's global generator, which the thread would share with dropout."""

    def __init__(self, config: Any) -> None:
        """config: a recipe, or anything whose `recipe` is one, such as `nexa_torch.Config`."""
        self.recipe: Recipe = getattr(config, "recipe", config)
        self.on_progress: OnProgress | None = None

    @abstractmethod
    def prepare_data(self) -> None:
        """Download or convert what lies on disk. Called on one process of each node, before `setup`."""

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Load and divide the data. Called on every process; stage: "fit", "preview", or None for all."""

    @abstractmethod
    def train_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Sampler[Any]]:
        """Return the loader of this process's training microbatches and the sampler that orders them.

        With a `GlobalSampler` as batch sampler the run resumes exactly and in constant time, on any
        number of processes. Any other sampler is told the epoch (`set_epoch`) and, on resume, read up to
        the place where the run stood.
        """

    def val_dataloader(self, rank: int, world_size: int) -> tuple[DataLoader[Any], Sampler[Any]] | None:
        """Return the same for held-out data, each row once; None where nothing is held out."""
        return None

    def place(self, row: int) -> dict[str, Any]:
        """What `go_to` needs to find training row `row`, counted over the run, at once, as JSON values.

        {} where the rows need nothing to be found by their numbers.
        """
        return {}

    def go_to(self, place: Mapping[str, Any]) -> None:  # noqa: B027 (rows found by their numbers need nothing)
        """Take over what `place` gave in an earlier attempt, perhaps on another machine.

        Called between `setup` and the first loader.
        """

    def fingerprint(self) -> str:
        """Hash of the training data, the same in every attempt of a run; "" where it is not known."""
        return ""

    def inputs(self) -> Sequence[str]:
        """Hashes or URIs of what checkpoints are made from, as artifacts name one another."""
        return [f"sha256:{found}"] if (found := self.fingerprint()) else []

    def lineage(self) -> dict[str, Any]:
        """What checkpoints record of the data they were trained on."""
        fingerprint = self.fingerprint()
        return {"dataset": {"hash": f"sha256:{fingerprint}"}} if fingerprint else {}

    def notes(self) -> Sequence[str]:
        """What a person should read in the log before the first step, one line each."""
        return ()

    def warnings(self) -> Sequence[str]:
        """What is wrong with the data though it can be trained on, in words."""
        return ()

    def report(self, phase: str, done: int, total: int | None) -> None:
        """Tell how far preparation is. Raises what the engine stops it with."""
        if self.on_progress is not None:
            self.on_progress(phase, done, total)

    @property
    def options(self) -> dict[str, Any]:
        """The recipe's section of the task's name; empty where it has none."""
        return dict(self.recipe.plugin_options.get(self.recipe.method, {}))


class GlobalSampler(Sampler[list[int]]):
    """Microbatches of row indices for one process: a pure function of (seed, epoch, global index).

    All processes together walk one endless sequence, epoch after shuffled epoch. Microbatch `i` of
    process `rank` holds its places ((i × world_size + rank) × batch_size) and following, so the rows of
    an optimizer step do not depend on how many processes share it. `select` sets where to begin and
    where the sequence ends; before it, one pass over the data.
    """

    def __init__(
        self, n: int, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1, shuffle: bool = True
    ) -> None:
        """n: rows of the data set. batch_size: rows of a microbatch."""
        self.n = n
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self._seed = seed
        self._shuffle = shuffle
        self._start = 0
        self._stop = n

    def select(self, *, start: int = 0, total_rows: int) -> None:
        """Begin with this process's microbatch `start`; end after `total_rows` rows of all processes."""
        self._start, self._stop = start, total_rows

    def rows(self, microbatch: int) -> list[int]:
        """Row indices of this process's microbatch; short or empty where the sequence ends."""
        place = (microbatch * self.world_size + self.rank) * self.batch_size
        start, stop = min(place, self._stop), min(place + self.batch_size, self._stop)
        if not self._shuffle:
            return [index % self.n for index in range(start, stop)]
        return [int(index) for index in rows_at(self._seed, self.n, start, stop)]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield microbatches up to the end of the sequence."""
        microbatch = self._start
        while rows := self.rows(microbatch):
            yield rows
            microbatch += 1

    def __len__(self) -> int:
        """Microbatches from the beginning to the end of the sequence, for this process."""
        stride = self.world_size * self.batch_size
        return max(0, -(-(self._stop - self.rank * self.batch_size) // stride) - self._start)


def make_loader(
    dataset: Dataset[Any],
    sampler: GlobalSampler,
    *,
    workers: int = 0,
    collate: Callable[[Any], Any] | None = None,
    pin: bool | None = None,
) -> DataLoader[Any]:
    """A loader of the microbatches that `sampler` lists; the same batches for any number of workers.

    pin: page-locked memory, for faster copies to a GPU. Default: where there is one.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available() if pin is None else pin,
        persistent_workers=False,
        # Worker seeds are drawn from it instead of the global generator.
        generator=torch.Generator().manual_seed(0),
    )


def row_loader(
    recipe: Recipe,
    dataset: Sized,
    rank: int,
    world_size: int,
    *,
    train: bool,
    shuffle: bool | None = None,
    collate: Callable[[Any], Any] | None = None,
) -> tuple[DataLoader[Any], GlobalSampler]:
    """A data set's loader and sampler as the recipe's batch size, seed and loader workers say.

    train: loaded ahead by `data.loader_workers`, and shuffled unless `shuffle` says no; else in order, each row once.
    collate: makes a batch of what the data set gives; default torch's own.
    """
    training = recipe.training
    sampler = GlobalSampler(
        len(dataset),
        batch_size=training.microbatch_size_per_gpu,
        seed=training.seed,
        rank=rank,
        world_size=world_size,
        shuffle=train if shuffle is None else shuffle,
    )
    workers = recipe.data.loader_workers if train else 0
    pin = bool(recipe.cluster.gpus_per_node)
    return make_loader(cast("Dataset[Any]", dataset), sampler, workers=workers, collate=collate, pin=pin), sampler
