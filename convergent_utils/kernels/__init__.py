"""Comparing representations: pure functions on tensors, on whatever device the tensors are."""

import numba

if numba.config.THREADING_LAYER == "default":
    numba.config.THREADING_LAYER = "workqueue"  # an OpenMP of its own would contend with torch's
