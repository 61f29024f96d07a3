"""Resolution and solid angle of pixels, from their positions."""

import torch

from nanobrag_torch.config import DetectorConfig
from nanobrag_torch.models.detector import Detector

detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=0.5, spixels=21, fpixels=21), dtype=torch.float64)
coordinates = detector.get_pixel_coords()
distances = torch.linalg.norm(coordinates, dim=-1)
cosine = (coordinates @ detector.beam_vector) / distances
resolution = 1.0 / (2 * torch.sin(torch.acos(cosine.clamp(-1, 1)) / 2))
solid_angle = detector.get_solid_angle(coordinates)
print("shapes", tuple(coordinates.shape), tuple(solid_angle.shape))
print("nearest", torch.argmax(resolution).item() == torch.argmin(distances).item())
by_hand = detector.pixel_size**2 * detector.close_distance / distances**3
print("solid angle", torch.allclose(solid_angle, by_hand))
spot = detector.pix0_vector + detector.pixel_size * (
    detector.beam_center_s * detector.sdet_vec + detector.beam_center_f * detector.fdet_vec
)
print("spot", torch.allclose(spot, detector.distance * detector.beam_vector))
