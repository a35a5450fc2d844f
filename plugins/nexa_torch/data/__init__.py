"""From a data file to token rows: read, check, render, encode, pack, order, preview.

Read in this order: `prepare` (the whole way in one function) → `sources` → `readers` → `documents`
→ `template` → `encode` → `packing` → `rows` → `order`.
"""
