"""A reference that resumed runs find unchanged, and what DPO and KTO share beside it: data that is encoded already."""

from __future__ import annotations

from typing import Any

_ADAPTER = "ref"


class EncodedWithReference:
    """Mixed in before a TRL trainer that holds the model to a reference.

    TRL copies the adapter that it is given as the reference. Nexa's adapters begin as an update of zero, so the
    model without its adapter is the same; and it stays the same in a run that is resumed with a trained adapter.
    """

    def __init__(self, *, keep_reference: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._drop_copied_adapter()
        if not keep_reference:
            # Its scores are columns of the data by now.
            self.ref_model = None

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        """The data set as it is: its rows are token ids."""
        return dataset

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """TRL's, without the copy of the adapter; called before training where scores are worked out once."""
        self._drop_copied_adapter()
        return super().compute_ref_log_probs(model, inputs)  # type: ignore[misc]

    def _drop_copied_adapter(self) -> None:
        drop_copied_adapter(self.accelerator.unwrap_model(self.model))  # type: ignore[attr-defined]


def drop_copied_adapter(model: Any) -> None:
    """Remove TRL's copy of the adapter, where it made one."""
    if _ADAPTER in getattr(model, "peft_config", {}):
        model.delete_adapter(_ADAPTER)
