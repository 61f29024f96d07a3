"""Where there is no GPU the Triton kernels run in Triton's interpreter: decided when their modules are imported.

Triton itself is imported first, without the interpreter, so that other tests of the same process find it as it is.
"""

from __future__ import annotations

import contextlib
import os

import torch
import triton.language  # noqa: F401

with contextlib.suppress(ImportError):  # newer versions would import this later, amid an interpreted kernel
    import triton.experimental.gluon  # noqa: F401

with_gpu = torch.cuda.is_available()
before = os.environ.get("TRITON_INTERPRET")
if not with_gpu:
    os.environ["TRITON_INTERPRET"] = "1"
try:
    import nanobrag_torch.kernels.cuda.kernel  # noqa: F401
finally:
    if before is None:
        os.environ.pop("TRITON_INTERPRET", None)
    else:
        os.environ["TRITON_INTERPRET"] = before
