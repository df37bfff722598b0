"""Imports torchmeta 1.8.0 on current releases of torch.

torchmeta's last release is older than the torch it runs on here. Three things are mended, all of them here; whoever
needs torchmeta takes it from this module, so that it cannot be imported unmended:

    from utils.data.torchmeta_mend import torchmeta

1. ``torchmeta.datasets.utils`` imports ``_get_confirm_token`` and ``_save_response_content`` from torchvision, which
   no longer has them. Only torchmeta's own Google Drive download calls them; ours is ``utils.data.prepare.download``.
2. ``SubsetTask`` overrides ``Subset.__getitem__`` but not the ``__getitems__`` beside it, which torch now refuses.
3. ``MiniImagenetClassDataset.close`` reads ``_data_file``, an attribute that exists only once the file was opened.
"""

import importlib
from types import ModuleType

import torchvision.datasets.utils


def _gone(*_):
    raise NotImplementedError("torchmeta's own Google Drive download no longer works: use utils.data.prepare.download.")


def _getitems(task, indices: list[int]) -> list:
    return [task[index] for index in indices]


def _import_mended() -> ModuleType:
    for name in ("_get_confirm_token", "_save_response_content"):
        if not hasattr(torchvision.datasets.utils, name):
            setattr(torchvision.datasets.utils, name, _gone)
    module = importlib.import_module("torchmeta")
    importlib.import_module("torchmeta.utils.data")
    module.utils.data.SubsetTask.__getitems__ = _getitems
    module.datasets.miniimagenet.MiniImagenetClassDataset._data_file = None
    return module


torchmeta = _import_mended()
