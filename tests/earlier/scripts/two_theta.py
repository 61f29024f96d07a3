"""A swung detector in the frame of XDS: the beam's spot, the angle of the normal, distances."""

import math

import torch

from nanobrag_torch.config import DetectorConfig, DetectorConvention, DetectorPivot
from nanobrag_torch.models.detector import Detector

config = DetectorConfig(
    distance_mm=150.0,
    pixel_size_mm=0.2,
    spixels=40,
    fpixels=50,
    detector_convention=DetectorConvention.XDS,
    detector_pivot=DetectorPivot.SAMPLE,
    detector_twotheta_deg=12.0,
    twotheta_axis=torch.tensor([1.0, 0.0, 0.0]),
)
detector = Detector(config, torch.device("cpu"), torch.float64)
cosine = math.cos(math.radians(12.0))
print("r factor", abs(detector.get_r_factor().item() - cosine) < 1e-12)
print("distance", abs(detector.get_corrected_distance().item() - detector.close_distance.item() / cosine) < 1e-12)
kept, report = detector.verify_beam_center_preservation(tolerance=1e-6)
print("kept", kept, report["max_error"] > 1e-3)
config.detector_twotheta_deg = 0.0
detector.invalidate_cache()
print("straight", detector.verify_beam_center_preservation()[0], round(detector.r_factor.item(), 12))
