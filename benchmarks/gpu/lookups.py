"""The committed tables of kernel configurations, and which of their rows are looked up."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

import slant_kernels
from slant_kernels.launch import Config, Table

Lookup = tuple[Table, str, Config]
"""A table, the shape class that was asked for, and the answer."""


def named_tables(package: Any = slant_kernels) -> dict[str, Table]:
    """Every table of the package's modules by where it stands, like "norm.ROW"; each once."""
    found: dict[int, tuple[str, Table]] = {}
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        for name, table in vars(importlib.import_module(info.name)).items():
            if isinstance(table, Table):
                found.setdefault(id(table), (f"{info.name.rpartition('.')[2]}.{name}", table))
    return dict(found.values())


@contextmanager
def lookups() -> Iterator[list[Lookup]]:
    """Within it, every lookup is added to the list."""
    seen: list[Lookup] = []
    find = Table.find

    def noted(table: Table, device: torch.device, shape_class: str = "") -> Config:
        config = find(table, device, shape_class)
        seen.append((table, shape_class, config))
        return config

    with mock.patch.object(Table, "find", noted):
        yield seen
