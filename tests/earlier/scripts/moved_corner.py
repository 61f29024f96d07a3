"""The corner of the detector in metres, as the earlier package had it: refused, with what to write."""

from nanobrag_torch.config import DetectorConfig
from nanobrag_torch.models import Detector

fields = {"distance_mm": 100.0, "pix0_override_m": (0.1, -0.05, 0.05)}
Detector(DetectorConfig(**fields))
